//! Users and groups, from the text of `/etc/passwd` and `/etc/group`. passwd(5), group(5).

use std::collections::{BTreeMap, BTreeSet};

/// The users and groups of a machine. Lines that are none are left out, as glibc does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    users: BTreeMap<String, User>,
    groups: BTreeMap<String, Group>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    gid: u32,
    members: Vec<String>,
}

impl Accounts {
    /// From the texts of the two files.
    pub fn parse(passwd: &str, group: &str) -> Self {
        let mut accounts = Self::default();
        for line in passwd.lines() {
            let mut fields = line.split(':');
            let (name, _, uid, gid) = (fields.next(), fields.next(), fields.next(), fields.next());
            if let (Some(name), Some(uid), Some(gid)) = (name, number(uid), number(gid))
                && !name.is_empty()
            {
                // The first entry of a name counts.
                accounts.users.entry(name.to_owned()).or_insert(User { uid, gid });
            }
        }
        for line in group.lines() {
            let mut fields = line.split(':');
            let (name, _, gid, members) =
                (fields.next(), fields.next(), fields.next(), fields.next());
            if let (Some(name), Some(gid)) = (name, number(gid))
                && !name.is_empty()
            {
                let members = members.unwrap_or_default().split(',').map(str::trim);
                let members =
                    members.filter(|member| !member.is_empty()).map(str::to_owned).collect();
                accounts.groups.entry(name.to_owned()).or_insert(Group { gid, members });
            }
        }
        accounts
    }

    /// The number of a user.
    pub fn uid(&self, name: &str) -> Option<u32> {
        self.users.get(name).map(|user| user.uid)
    }

    /// The number of a group.
    pub fn gid(&self, name: &str) -> Option<u32> {
        self.groups.get(name).map(|group| group.gid)
    }

    /// The name of a user.
    pub fn user_name(&self, uid: u32) -> Option<&str> {
        self.users.iter().find(|(_, user)| user.uid == uid).map(|(name, _)| name.as_str())
    }

    /// The users whose group it is, and those that the group lists.
    pub fn members(&self, gid: u32) -> BTreeSet<u32> {
        let own = self.users.values().filter(|user| user.gid == gid).map(|user| user.uid);
        let groups = self.groups.values().filter(|group| group.gid == gid);
        let listed = groups.flat_map(|group| &group.members).filter_map(|name| self.uid(name));
        own.chain(listed).collect()
    }
}

fn number(field: Option<&str>) -> Option<u32> {
    let field = field?;
    field.bytes().all(|byte| byte.is_ascii_digit()).then(|| field.parse().ok())?
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
short:x:5
:x:7:7:::
";
    const GROUP: &str = "root:x:0:\nusers:x:100:bob, nobody-here\ndisk:x:6:ann,bob\nempty:x\n";

    #[test]
    fn names_have_numbers_and_groups_members() {
        let accounts = Accounts::parse(PASSWD, GROUP);
        assert_eq!(accounts.uid("ann"), Some(1000));
        assert_eq!(accounts.gid("disk"), Some(6));
        assert_eq!(accounts.user_name(1001), Some("bob"));
        assert_eq!(accounts.members(6), BTreeSet::from([1000, 1001]));
        assert_eq!(accounts.members(100), BTreeSet::from([1000, 1001]), "ann's own group");
        assert_eq!(accounts.members(0), BTreeSet::from([0]));
    }

    #[test]
    fn malformed_lines_are_left_out() {
        let accounts = Accounts::parse(PASSWD, GROUP);
        for name in ["", "broken", "short", "+nis", "# a comment"] {
            assert_eq!(accounts.uid(name), None, "{name:?}");
        }
        assert_eq!(accounts.gid("empty"), None);
        assert_eq!(Accounts::parse("\0:::::\n\n:", ""), Accounts::default());
    }
}
