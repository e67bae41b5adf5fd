//! The value of the extended attribute that holds a file's capabilities: `struct vfs_cap_data` and
//! `struct vfs_ns_cap_data` in `include/uapi/linux/capability.h`.
//!
//! All numbers are little endian words of 32 bits:
//!
//! | offset | word |
//! |---|---|
//! | 0 | revision in the top byte, flags below; bit 0 is «effective», the only flag there is |
//! | 4, 8 | permitted and inheritable, capabilities 0 to 31 |
//! | 12, 16 | permitted and inheritable, capabilities 32 to 63 |
//! | 20 | the user ID of root in the user namespace where it counts (revision 3) |
//!
//! What is read is what setxattr(2) stores: `cap_convert_nscap` in `security/commoncap.c`. Since Linux 4.14 that is revisions 2
//! and 3 only; a file that got revision 1 earlier keeps it, but an image cannot bring it.

use super::{Capability, CapabilitySet};
use crate::error::{Error, Result};

/// The name of the extended attribute.
pub const XATTR: &str = "security.capability";

const EFFECTIVE: u32 = 1;
const FLAGS: u32 = 0x00ff_ffff;

/// The capabilities of a file, as its extended attribute can hold them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileCapabilities {
    /// What a process gets by executing the file, as far as its bounding set allows.
    pub permitted: CapabilitySet,
    /// What a process keeps of its own inheritable set when it executes the file.
    pub inheritable: CapabilitySet,
    /// Whether what was gained is in effect at once; one flag for the whole file, not one for each capability.
    pub effective: bool,
    /// The user ID of root in the user namespace where this counts; 0, the rule, means everywhere.
    pub root_id: u32,
}

impl FileCapabilities {
    /// The value of the attribute: revision 2, 20 bytes; with a root ID other than 0, revision 3, 24 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let revision: u32 = if self.root_id == 0 { 2 } else { 3 };
        let header = revision << 24 | if self.effective { EFFECTIVE } else { 0 };
        let (permitted, inheritable) = (self.permitted.bits(), self.inheritable.bits());
        let mut value = Vec::with_capacity(24);
        value.extend(header.to_le_bytes());
        for half in 0..2 {
            value.extend(((permitted >> (32 * half)) as u32).to_le_bytes());
            value.extend(((inheritable >> (32 * half)) as u32).to_le_bytes());
        }
        if revision == 3 {
            value.extend(self.root_id.to_le_bytes());
        }
        value
    }

    /// Reads the value of the attribute in revision 2 (20 bytes) or 3 (24 bytes).
    ///
    /// # Errors
    /// [`Kind::Content`](crate::error::Kind::Content) for another length, revision or flag, and for the root ID 2³² − 1, which is
    /// no user: the kernel would refuse to store such a value, and the image could not be unpacked. The error does not know the
    /// file; say it with [`Error::context`].
    pub fn decode(value: &[u8]) -> Result<Self> {
        let words: Vec<u32> =
            value.chunks_exact(4).map(|word| word.iter().rev().fold(0, |n, byte| n << 8 | u32::from(*byte))).collect();
        let Some(&header) = words.first() else {
            return Err(Error::content(format!(
                "the value of {XATTR} is {} bytes long, too short for its header of 4",
                value.len()
            )));
        };
        let revision = header >> 24;
        let length = match revision {
            2 => 20,
            3 => 24,
            1 => {
                return Err(Error::content(format!(
                    "{XATTR} has revision 1, which the kernel does not store since Linux 4.14"
                )));
            }
            _ => return Err(Error::content(format!("{XATTR} has revision {revision}; known are 2 and 3"))),
        };
        if value.len() != length {
            return Err(Error::content(format!(
                "the value of {XATTR} is {} bytes long; revision {revision} has {length}",
                value.len()
            )));
        }
        let unknown = header & FLAGS & !EFFECTIVE;
        if unknown != 0 {
            return Err(Error::content(format!(
                "{XATTR} has unknown flags {unknown:#x}; known is only {EFFECTIVE:#x}"
            )));
        }
        let word = |index: usize| words.get(index).copied().unwrap_or(0);
        if word(5) == u32::MAX {
            return Err(Error::content(format!("{XATTR} counts for the root user {}, which is no user", u32::MAX)));
        }
        let set = |low, high| CapabilitySet::from_bits(u64::from(word(low)) | u64::from(word(high)) << 32);
        Ok(FileCapabilities {
            permitted: set(1, 3),
            inheritable: set(2, 4),
            effective: header & EFFECTIVE != 0,
            root_id: word(5),
        })
    }

    /// What the file has and what is wanted, together; `effective` if either is.
    ///
    /// # Errors
    /// [`Kind::Content`](crate::error::Kind::Content) if the file's count in one user namespace only (a root ID other than 0):
    /// together with the others they would count everywhere.
    pub fn merge(&self, wanted: &FileCapabilities) -> Result<Self> {
        if self.root_id != wanted.root_id {
            let root_id = if self.root_id == 0 { wanted.root_id } else { self.root_id };
            return Err(Error::content(format!(
                "the capabilities \"{self}\" already on the file cannot be merged with \"{wanted}\": one of them counts only \
                 in user namespaces whose root is user {root_id}"
            ))
            .hint("use --replace-caps to put the new ones in place of the old"));
        }
        Ok(FileCapabilities {
            permitted: self.permitted.union(wanted.permitted),
            inheritable: self.inheritable.union(wanted.inheritable),
            effective: self.effective || wanted.effective,
            root_id: self.root_id,
        })
    }

    /// In the words of getcap(8), as `getcap -n` prints it: with the root ID, if it counts only there.
    pub fn listed(&self) -> String {
        match self.root_id {
            0 => self.to_string(),
            root_id => format!("{self} [rootid={root_id}]"),
        }
    }

    /// Whether it names no capability at all; such a value can still be on a file, and is not the same as none.
    pub fn is_empty(&self) -> bool {
        self.permitted.is_empty() && self.inheritable.is_empty()
    }

    /// Whether a program that knows nothing of capabilities can use `capability` by being this file.
    pub fn grants(&self, capability: Capability) -> bool {
        self.effective && self.permitted.contains(capability)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Kind;

    const NET_BIND: FileCapabilities = FileCapabilities {
        permitted: CapabilitySet::from_bits(1 << 10),
        inheritable: CapabilitySet::EMPTY,
        effective: true,
        root_id: 0,
    };

    #[test]
    fn the_value_that_setcap_writes() {
        let value = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(NET_BIND.encode(), value);
        assert_eq!(FileCapabilities::decode(value), Ok(NET_BIND));
        assert!(NET_BIND.grants(Capability::NET_BIND_SERVICE) && !NET_BIND.grants(Capability::NET_RAW));
    }

    #[test]
    fn both_revisions_are_read() {
        let v3 = b"\x01\0\0\x03\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xe8\x03\0\0";
        assert_eq!(FileCapabilities::decode(v3), Ok(FileCapabilities { root_id: 1000, ..NET_BIND }));
        assert_eq!(FileCapabilities::decode(v3).unwrap().listed(), "cap_net_bind_service=ep [rootid=1000]");
        assert_eq!(NET_BIND.listed(), "cap_net_bind_service=ep");
        let v3_root = b"\x01\0\0\x03\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(FileCapabilities::decode(v3_root), Ok(NET_BIND));
    }

    #[test]
    fn what_the_kernel_refuses_is_an_error() {
        for (header, length, says) in [
            ([0, 0, 0, 0], 0, "0 bytes long, too short"),
            ([0, 0, 0, 2], 3, "3 bytes long, too short"),
            ([1, 0, 0, 2], 4, "4 bytes long; revision 2 has 20"),
            ([1, 0, 0, 2], 19, "19 bytes long; revision 2 has 20"),
            ([1, 0, 0, 2], 21, "21 bytes long; revision 2 has 20"),
            ([1, 0, 0, 2], 24, "24 bytes long; revision 2 has 20"),
            ([1, 0, 0, 3], 20, "20 bytes long; revision 3 has 24"),
            ([1, 0, 0, 1], 12, "revision 1, which the kernel does not store"),
            ([1, 0, 0, 1], 20, "revision 1, which the kernel does not store"),
            ([1, 0, 0, 0], 20, "revision 0; known are 2 and 3"),
            ([1, 0, 0, 4], 20, "revision 4; known are 2 and 3"),
            ([3, 0, 0, 2], 20, "unknown flags 0x2;"),
            ([1, 0, 1, 2], 20, "unknown flags 0x10000;"),
        ] {
            let mut value = header.to_vec();
            value.resize(length, 0);
            let error = FileCapabilities::decode(&value).unwrap_err();
            assert_eq!(error.kind(), Kind::Content);
            assert!(error.to_string().contains(says), "{value:?}: {error}");
        }
        let nobody = [&b"\x01\0\0\x03"[..], &[0; 16], &[0xff; 4]].concat();
        assert!(FileCapabilities::decode(&nobody).unwrap_err().to_string().contains("root user 4294967295"));
    }

    #[test]
    fn merging_keeps_what_was_there() {
        let cases = [
            ("cap_net_raw=ep", "cap_net_bind_service=ep", "cap_net_bind_service,cap_net_raw=ep"),
            ("cap_net_bind_service=ep", "cap_net_bind_service=+eip", "cap_net_bind_service=eip"),
            ("", "cap_net_bind_service=ep", "cap_net_bind_service=ep"),
            ("cap_net_bind_service=p", "cap_net_bind_service=ep", "cap_net_bind_service=ep"),
            ("cap_net_raw=ep", "cap_chown=i", "cap_chown=ei cap_net_raw+ep"),
            ("63=p", "cap_chown=p", "cap_chown=p 63+p"),
        ];
        for (existing, wanted, both) in cases {
            let (existing, wanted): (FileCapabilities, FileCapabilities) =
                (existing.parse().unwrap(), wanted.parse().unwrap());
            assert_eq!(existing.merge(&wanted).unwrap().to_string(), both);
        }
        let error = FileCapabilities { root_id: 1000, ..NET_BIND }.merge(&NET_BIND).unwrap_err();
        assert_eq!(error.kind(), Kind::Content);
        assert!(error.to_string().contains("root is user 1000"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn every_mask_survives_both_revisions(
            permitted: u64, inheritable: u64, effective: bool,
            root_id in prop_oneof![Just(0), Just(10), Just(2570), 0..u32::MAX],
        ) {
            let caps = FileCapabilities {
                permitted: CapabilitySet::from_bits(permitted),
                inheritable: CapabilitySet::from_bits(inheritable),
                effective,
                root_id,
            };
            let value = caps.encode();
            prop_assert_eq!(value.len(), if root_id == 0 { 20 } else { 24 });
            prop_assert_eq!(FileCapabilities::decode(&value), Ok(caps));
        }

        #[test]
        fn any_bytes_are_read_or_refused(value in proptest::collection::vec(any::<u8>(), 0..32)) {
            if let Ok(caps) = FileCapabilities::decode(&value) {
                prop_assert_eq!(FileCapabilities::decode(&caps.encode()), Ok(caps));
            }
        }
    }

    #[test]
    fn every_byte_survives_at_every_place_of_a_mask() {
        for byte in 0..=u8::MAX {
            for place in 0..8 {
                let mask = CapabilitySet::from_bits(u64::from(byte) << (8 * place));
                for (permitted, inheritable) in
                    [(mask, CapabilitySet::EMPTY), (CapabilitySet::EMPTY, mask), (mask, mask)]
                {
                    for root_id in [0, u32::from(byte) << (8 * (place % 4))] {
                        let caps = FileCapabilities { permitted, inheritable, effective: true, root_id };
                        assert_eq!(FileCapabilities::decode(&caps.encode()), Ok(caps));
                    }
                }
            }
        }
    }
}
