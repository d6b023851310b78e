//! Users and groups, from the text of `/etc/passwd` and `/etc/group`. passwd(5), group(5).

use std::collections::BTreeMap;

/// The users and groups of a machine. Lines that are none are left out, as glibc does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
}

impl Accounts {
    /// From the texts of the two files.
    pub fn parse(passwd: &str, group: &str) -> Self {
        Self { users: numbers(passwd), groups: numbers(group) }
    }

    /// The number of a user.
    pub fn uid(&self, name: &str) -> Option<u32> {
        self.users.get(name).copied()
    }

    /// The number of a group.
    pub fn gid(&self, name: &str) -> Option<u32> {
        self.groups.get(name).copied()
    }

    /// The name of a user.
    pub fn user_name(&self, uid: u32) -> Option<&str> {
        name_of(&self.users, uid)
    }

    /// The name of a group.
    pub fn group_name(&self, gid: u32) -> Option<&str> {
        name_of(&self.groups, gid)
    }
}

/// Name and number are the first and the third field of both files. The first line of a name counts.
fn numbers(text: &str) -> BTreeMap<String, u32> {
    let mut numbers = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(number)) = (fields.next(), fields.nth(1).and_then(number))
            && !name.is_empty()
        {
            numbers.entry(name.to_owned()).or_insert(number);
        }
    }
    numbers
}

/// Digits alone, unlike `u32::from_str`, which takes a sign.
fn number(field: &str) -> Option<u32> {
    field.bytes().all(|byte| byte.is_ascii_digit()).then(|| field.parse().ok())?
}

fn name_of(numbers: &BTreeMap<String, u32>, wanted: u32) -> Option<&str> {
    numbers.iter().find(|(_, number)| **number == wanted).map(|(name, _)| name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "\
root:x:0:0:root:/:/bin/sh
ann:x:1000:100::/home/ann:/bin/sh
ann:x:2000:200:the second of a name does not count::
bob:x:1001:101::/home/bob:
+nis::::::
broken:x:-1:5:::
# a comment
short:x
:x:7:7:::
";
    const GROUP: &str = "root:x:0:\nusers:x:100:bob, nobody-here\ndisk:x:6:ann,bob\nempty:x\n";

    #[test]
    fn names_have_numbers() {
        let accounts = Accounts::parse(PASSWD, GROUP);
        assert_eq!(accounts.uid("ann"), Some(1000));
        assert_eq!(accounts.gid("disk"), Some(6));
        assert_eq!(accounts.user_name(1001), Some("bob"));
        assert_eq!(accounts.group_name(100), Some("users"));
        assert_eq!(accounts.user_name(7), None);
    }

    #[test]
    fn malformed_lines_are_left_out() {
        let accounts = Accounts::parse(PASSWD, GROUP);
        for name in ["", "broken", "short", "+nis", "# a comment"] {
            assert_eq!(accounts.uid(name), None, "{name:?}");
        }
        assert_eq!(accounts.gid("empty"), None);
        assert_eq!(accounts.uid("ann"), Some(1000), "the first");
        assert_eq!(Accounts::parse("\0:::::\n\n:", ""), Accounts::default());
    }
}
