use proptest::prelude::*;

use super::*;

const OPCODES: [(Opcode, u64); 5] = [
    (Opcode::Read, 1),
    (Opcode::Write, 2),
    (Opcode::Flush, 3),
    (Opcode::Discard, 4),
    (Opcode::WriteZeroes, 5),
];

const OUTCOMES: [(Outcome, u32); 10] = [
    (Outcome::Success, 0),
    (Outcome::Device(0), 0x1_0000),
    (Outcome::Device(0xffff), 0x1_ffff),
    (Outcome::OutOfRange, 0x2_0000),
    (Outcome::Aborted, 0x3_0000),
    (Outcome::Reset, 0x4_0000),
    (Outcome::Gone, 0x5_0000),
    (Outcome::Poisoned, 0x6_0000),
    (Outcome::Invalid, 0x7_0000),
    (Outcome::Denied, 0x8_0000),
];

#[test]
fn a_submission_is_as_it_was() {
    for (opcode, bits) in OPCODES {
        for fua in [false, true] {
            let submission = Submission {
                opcode,
                fua,
                blocks: 0x0102_0304,
                lba: 0x1112_1314_1516_1718,
                offset: 0x2122_2324_2526_2728,
                tag: 0x3132_3334_3536_3738,
            };
            let words = [
                0x0102_0304_0000_0000 | u64::from(fua) << 8 | bits,
                0x1112_1314_1516_1718,
                0x2122_2324_2526_2728,
                0x3132_3334_3536_3738,
            ];
            assert_eq!(submission.to_words(), words);
            assert_eq!(Submission::from_words(words), Some(submission));
        }
    }
}

#[test]
fn each_bit_of_a_submission_that_means_nothing_is_refused() {
    for bit in 9..32 {
        assert_eq!(Submission::from_words([1 | 1 << bit, 0, 0, 0]), None, "bit {bit}");
    }
    for opcode in (0..=u64::from(u8::MAX)).filter(|opcode| !(1..=5).contains(opcode)) {
        assert_eq!(Submission::from_words([opcode, 0, 0, 0]), None, "opcode {opcode}");
    }
}

#[test]
fn opcodes_tell_what_they_do() {
    let those = |which: fn(Opcode) -> bool| {
        OPCODES.into_iter().filter(move |(opcode, _)| which(*opcode)).map(|(_, bits)| bits)
    };
    assert!(those(Opcode::writes).eq([2, 4, 5]));
    assert!(those(Opcode::has_data).eq([1, 2]));
}

#[test]
fn outcomes_are_as_they_were() {
    for (outcome, bits) in OUTCOMES {
        assert_eq!(outcome.to_bits(), bits, "{outcome:?}");
        assert_eq!(Outcome::from_bits(bits), outcome);
        let completion = Completion { tag: 0x0102_0304_0506_0708, outcome };
        assert_eq!(completion.to_words(), [0x0102_0304_0506_0708, bits.into()]);
        assert_eq!(Completion::from_words(completion.to_words()), completion);
    }
}

#[test]
fn what_is_no_outcome_is_an_error_of_the_device() {
    assert_eq!(Outcome::from_bits(5), Outcome::Device(5));
    assert_eq!(Outcome::from_bits(0x9_0007), Outcome::Device(7));
    assert_eq!(Outcome::from_bits(u32::MAX), Outcome::Device(0xffff));
}

proptest! {
    /// Any words are no request or exactly one.
    #[test]
    fn any_words_are_a_request_or_none(words: [u64; 4], low in 0u64..0x400) {
        let nearly = [words[0] & !0xffff_ffff | low, words[1], words[2], words[3]];
        for words in [words, nearly] {
            if let Some(submission) = Submission::from_words(words) {
                prop_assert_eq!(submission.to_words(), words);
            }
        }
    }

    /// Only what says nothing but 0 is a success.
    #[test]
    fn any_words_are_a_completion(words: [u64; 2]) {
        let completion = Completion::from_words(words);
        prop_assert_eq!(completion.tag, words[0]);
        prop_assert_eq!(completion.outcome == Outcome::Success, words[1] as u32 == 0);
    }
}
