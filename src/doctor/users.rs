//! Users and groups of an image: passwd(5), group(5), and what container runtimes make of `USER` in its config.

use super::files::{self, Files};
use crate::error::Result;

/// Who a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Its name, if the image has one for it.
    pub name: Option<String>,
}

/// `/etc/passwd` and `/etc/group` of an image.
#[derive(Default)]
pub(super) struct Users {
    passwd: Vec<Vec<String>>,
    group: Vec<Vec<String>>,
}

impl Users {
    pub(super) fn read(files: &mut Files<'_>) -> Result<Self> {
        let mut lines = |path: &str| -> Result<Vec<Vec<String>>> {
            let text = match files.file(path)? {
                Some(file) => files::text(&file)?.unwrap_or_default(),
                None => String::new(),
            };
            Ok(text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect())
        };
        Ok(Users { passwd: lines("/etc/passwd")?, group: lines("/etc/group")? })
    }

    /// The number of a group that is given by name or number.
    ///
    /// # Errors
    /// What the runtime says: a name has to be in the image, a number has not.
    pub(super) fn group(&self, group: &str) -> Result<u32, String> {
        let by_name = self.group.iter().find(|fields| fields.first().is_some_and(|name| name == group));
        let number = by_name.and_then(|fields| fields.get(2)?.parse().ok());
        let number = number.or_else(|| group.parse().ok());
        number
            .map(in_range)
            .transpose()?
            .ok_or_else(|| format!("unable to find group {group}: no matching entries in group file"))
    }

    /// `USER`, `UID`, with `:GROUP` perhaps; nothing means root.
    ///
    /// # Errors
    /// What the runtime says: a name has to be in the image, a number has not.
    pub(super) fn resolve(&self, text: &str) -> Result<User, String> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let user = if user.is_empty() { "0" } else { user };
        let number = |fields: &[String], at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok());
        let is_user = |fields: &&Vec<String>| match user.parse::<u32>() {
            Ok(uid) => number(fields, 2) == Some(uid),
            Err(_) => fields.first().is_some_and(|name| name == user),
        };
        let entry = self.passwd.iter().filter(|fields| number(fields, 2).is_some()).find(is_user);
        let uid = entry.and_then(|fields| number(fields, 2)).or_else(|| user.parse().ok());
        let uid = uid.ok_or_else(|| format!("unable to find user {user}: no matching entries in passwd file"))?;
        in_range(uid)?;
        let name = entry.and_then(|fields| fields.first().cloned());
        let gid = match group.filter(|group| !group.is_empty()) {
            None => entry.and_then(|fields| number(fields, 3)).unwrap_or(0),
            Some(group) => self.group(group)?,
        };
        let is_member = |fields: &&Vec<String>| {
            let members = fields.get(3).map_or("", String::as_str);
            name.as_ref().is_some_and(|name| members.split(',').any(|member| member.trim() == name))
        };
        let groups = match group {
            Some(_) => Vec::new(),
            None => self.group.iter().filter(is_member).filter_map(|fields| number(fields, 2)).collect(),
        };
        Ok(User { uid, gid, groups, name })
    }
}

/// # Errors
/// What the runtime says to numbers above 2^31-1 (moby/sys, `user.GetExecUser`).
fn in_range(id: u32) -> Result<u32, String> {
    match i32::try_from(id) {
        Ok(_) => Ok(id),
        Err(_) => Err("uids and gids must be in range 0-2147483647".to_owned()),
    }
}

impl User {
    /// Whether it may write what has this owner, group and mode: path_resolution(7), without capabilities.
    pub(super) fn may_write(&self, owner: u64, group: u64, mode: u32) -> bool {
        self.class(owner, group, mode) & 0o2 != 0
    }

    /// Whether it may execute a file, or search a directory.
    pub(super) fn may_execute(&self, owner: u64, group: u64, mode: u32) -> bool {
        self.class(owner, group, mode) & 0o1 != 0
    }

    /// Whether it may read a file.
    pub(super) fn may_read(&self, owner: u64, group: u64, mode: u32) -> bool {
        self.class(owner, group, mode) & 0o4 != 0
    }

    /// Whether a group is one of its own.
    pub(super) fn is_in(&self, group: u64) -> bool {
        u64::from(self.gid) == group || self.groups.iter().any(|gid| u64::from(*gid) == group)
    }

    /// The three bits of `mode` that count for it.
    fn class(&self, owner: u64, group: u64, mode: u32) -> u32 {
        if u64::from(self.uid) == owner {
            mode >> 6
        } else if self.is_in(group) {
            mode >> 3
        } else {
            mode
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        let lines =
            |text: &str| text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect::<Vec<_>>();
        Users {
            passwd: lines("root:x:0:0::/:/bin/sh\nbad line\nbroken:x:many:1\nkong:x:1337:1000::/home/kong:/bin/sh\n"),
            group: lines("root:x:0:\nkong:x:1000:\nextra:x:7:other, kong\nweb:x:8:other\n"),
        }
    }

    #[test]
    fn users_are_found_as_runtimes_find_them() {
        let user = |uid, gid, groups: &[u32], name: Option<&str>| {
            Ok(User { uid, gid, groups: groups.to_vec(), name: name.map(str::to_owned) })
        };
        for (text, expected) in [
            ("", user(0, 0, &[], Some("root"))),
            ("kong", user(1337, 1000, &[7], Some("kong"))),
            ("1337", user(1337, 1000, &[7], Some("kong"))),
            ("1000", user(1000, 0, &[], None)),
            ("1000:1000", user(1000, 1000, &[], None)),
            ("kong:web", user(1337, 8, &[], Some("kong"))),
            (":web", user(0, 8, &[], Some("root"))),
            ("nobody", Err("unable to find user nobody: no matching entries in passwd file".to_owned())),
            ("kong:none", Err("unable to find group none: no matching entries in group file".to_owned())),
            ("-1", Err("unable to find user -1: no matching entries in passwd file".to_owned())),
            ("4294967296", Err("unable to find user 4294967296: no matching entries in passwd file".to_owned())),
            ("2147483647", user(2_147_483_647, 0, &[], None)),
            ("2147483648", Err("uids and gids must be in range 0-2147483647".to_owned())),
            ("1000:4294967295", Err("uids and gids must be in range 0-2147483647".to_owned())),
            ("broken", Err("unable to find user broken: no matching entries in passwd file".to_owned())),
        ] {
            assert_eq!(users().resolve(text), expected, "{text}");
        }
    }

    #[test]
    fn one_class_of_permissions_counts() {
        let kong = users().resolve("kong").unwrap();
        for (owner, group, mode, expected) in [
            (1337, 0, 0o755, true),
            (1337, 0, 0o577, false),
            (0, 1000, 0o775, true),
            (0, 7, 0o775, true),
            (0, 8, 0o775, false),
            (0, 1000, 0o757, false),
            (0, 0, 0o757, true),
        ] {
            assert_eq!(kong.may_write(owner, group, mode), expected, "{owner}:{group} {mode:o}");
            // The bits to execute are one place further, those to read one before.
            assert_eq!(kong.may_read(owner, group, mode << 1), expected, "{owner}:{group} {mode:o}");
            assert_eq!(kong.may_execute(owner, group, mode >> 1), expected, "{owner}:{group} {mode:o}");
        }
    }
}
