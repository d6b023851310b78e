//! How long a client waited for its driver's successor.
//!
//! A gap runs from just before the order to harm the driver was sent until the client saw the
//! successor's first completion, by the client's clock. The client does not see which driver a
//! completion comes from. But the one that was harmed completes nothing soon after the core has
//! answered, so the longest pause that begins before that is the one, and its end the end of the
//! gap. What the core reports of the death serves as a check from below: the gap is never taken
//! to be shorter than the time that the core says passed until the first completion was posted.

use super::watch::Pause;

/// The end of the gap after a harm, in ticks. `sent`: just before the order was sent; `over`: when
/// the harmed driver completes nothing more; `at_least`: how long the core says that it took.
pub(crate) fn end(pauses: &[Pause], sent: u64, over: u64, at_least: u64) -> Option<u64> {
    let longest = pauses
        .iter()
        .filter(|pause| pause.end > sent && pause.begin <= over)
        .max_by_key(|pause| pause.end - pause.begin.clamp(sent, pause.end))?;
    let posted = sent.saturating_add(at_least);
    if posted <= longest.end {
        return Some(longest.end);
    }
    // It was seen with the first completions after it was posted.
    let around = pauses.iter().find(|pause| (pause.begin..pause.end).contains(&posted));
    Some(around.map_or(posted, |pause| pause.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(pauses: &[(u64, u64)], at_least: u64) -> Option<u64> {
        let pauses: Vec<_> = pauses.iter().map(|&(begin, end)| Pause { begin, end }).collect();
        end(&pauses, 1000, 1100, at_least).map(|end| end - 1000)
    }

    #[test]
    fn the_longest_pause_around_the_harm_decides() {
        assert_eq!(gap(&[], 0), None);
        assert_eq!(gap(&[(1050, 1300)], 0), Some(300));
        // Seen before the order, and long after: not of this harm.
        assert_eq!(gap(&[(100, 900), (1050, 1300), (2000, 9000)], 0), Some(300));
        // A pause that began before the order counts from there.
        assert_eq!(gap(&[(100, 1010), (1050, 1300)], 0), Some(300));
        assert_eq!(gap(&[(990, 1400)], 0), Some(400));
    }

    #[test]
    fn a_gap_is_not_shorter_than_the_core_says() {
        assert_eq!(gap(&[(1050, 1300)], 250), Some(300));
        assert_eq!(gap(&[(1050, 1300)], 350), Some(350));
        assert_eq!(gap(&[(1050, 1300), (1310, 1500)], 350), Some(500));
    }
}
