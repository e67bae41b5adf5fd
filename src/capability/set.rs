//! Capabilities by name and number, and sets of them: capabilities(7), `include/uapi/linux/capability.h`.

use std::fmt;

/// The named capabilities; the index is the number.
const NAMES: [&str; 41] = [
    "cap_chown",
    "cap_dac_override",
    "cap_dac_read_search",
    "cap_fowner",
    "cap_fsetid",
    "cap_kill",
    "cap_setgid",
    "cap_setuid",
    "cap_setpcap",
    "cap_linux_immutable",
    "cap_net_bind_service",
    "cap_net_broadcast",
    "cap_net_admin",
    "cap_net_raw",
    "cap_ipc_lock",
    "cap_ipc_owner",
    "cap_sys_module",
    "cap_sys_rawio",
    "cap_sys_chroot",
    "cap_sys_ptrace",
    "cap_sys_pacct",
    "cap_sys_admin",
    "cap_sys_boot",
    "cap_sys_nice",
    "cap_sys_resource",
    "cap_sys_time",
    "cap_sys_tty_config",
    "cap_mknod",
    "cap_lease",
    "cap_audit_write",
    "cap_audit_control",
    "cap_setfcap",
    "cap_mac_override",
    "cap_mac_admin",
    "cap_syslog",
    "cap_wake_alarm",
    "cap_block_suspend",
    "cap_audit_read",
    "cap_perfmon",
    "cap_bpf",
    "cap_checkpoint_restore",
];

/// How many capabilities fit into the extended attribute.
const MAX: u8 = 64;

/// One capability, a number below 64. Numbers that have no name yet are kept, as libcap does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability(u8);

impl Capability {
    /// `cap_chown`, to change the owner of a file.
    pub const CHOWN: Capability = Capability(0);
    /// `cap_dac_override`: the permissions of files do not count.
    pub const DAC_OVERRIDE: Capability = Capability(1);
    /// `cap_setfcap`, to put capabilities on a file.
    pub const SETFCAP: Capability = Capability(31);
    /// `cap_setgid`, to change groups.
    pub const SETGID: Capability = Capability(6);
    /// `cap_setuid`, to become another user.
    pub const SETUID: Capability = Capability(7);
    /// `cap_net_bind_service`, to bind a port below 1024.
    pub const NET_BIND_SERVICE: Capability = Capability(10);
    /// `cap_net_raw`, which old images of Kong set on nginx for transparent proxying.
    pub const NET_RAW: Capability = Capability(13);

    /// The capability with this number, if it is below 64.
    pub fn from_number(number: u64) -> Option<Self> {
        u8::try_from(number).ok().filter(|n| *n < MAX).map(Capability)
    }

    /// The capability with this name, in any case and with its prefix `cap_`, as in cap_from_name(3).
    pub fn from_name(name: &str) -> Option<Self> {
        let index = NAMES.iter().position(|known| known.eq_ignore_ascii_case(name))?;
        Capability::from_number(index as u64)
    }

    /// Its number, which is its bit in a [`CapabilitySet`].
    pub fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Capability {
    /// The name in lower case, or the number if it has none, as cap_to_name(3) gives it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A set of capabilities, one bit for each number from 0 to 63.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// No capability.
    pub const EMPTY: CapabilitySet = CapabilitySet(0);
    /// All that have a name, which is what `all` stands for in a text.
    pub const NAMED: CapabilitySet = CapabilitySet((1 << NAMES.len()) - 1);

    /// The set whose bit `n` is capability number `n`.
    pub const fn from_bits(bits: u64) -> Self {
        CapabilitySet(bits)
    }

    /// Bit `n` is capability number `n`.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `capability` is in it.
    pub fn contains(self, capability: Capability) -> bool {
        self.0 & (1 << capability.0) != 0
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        CapabilitySet(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        CapabilitySet(self.0 & other.0)
    }

    /// Whether all of it is in `other`.
    pub const fn is_subset(self, other: Self) -> bool {
        self.minus(other).is_empty()
    }

    /// What is in `self` and not in `other`.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        CapabilitySet(self.0 & !other.0)
    }

    /// Its capabilities, from the lowest number up.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        (0..MAX).map(Capability).filter(move |capability| self.contains(*capability))
    }
}

impl From<Capability> for CapabilitySet {
    fn from(capability: Capability) -> Self {
        CapabilitySet(1 << capability.0)
    }
}

impl FromIterator<Capability> for CapabilitySet {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        capabilities.into_iter().fold(CapabilitySet::EMPTY, |set, capability| set.union(capability.into()))
    }
}

impl fmt::Display for CapabilitySet {
    /// The names from the lowest number up with commas between them, as in a clause of cap_to_text(3).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, capability) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            capability.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_belong_together() {
        for (name, number) in [
            ("cap_chown", 0),
            ("cap_fowner", 3),
            ("cap_linux_immutable", 9),
            ("cap_net_bind_service", 10),
            ("cap_net_raw", 13),
            ("cap_sys_admin", 21),
            ("cap_setfcap", 31),
            ("cap_mac_override", 32),
            ("cap_perfmon", 38),
            ("cap_bpf", 39),
            ("cap_checkpoint_restore", 40),
        ] {
            assert_eq!(Capability::from_name(name).map(Capability::number), Some(number), "{name}");
            assert_eq!(Capability::from_number(number.into()).unwrap().to_string(), name);
        }
        for capability in CapabilitySet::NAMED.iter() {
            assert_eq!(Capability::from_name(&capability.to_string().to_uppercase()), Some(capability));
        }
        assert_eq!(Capability::from_number(41).unwrap().to_string(), "41");
        assert_eq!((Capability::from_number(64), Capability::from_number(u64::MAX)), (None, None));
        assert_eq!((Capability::from_name("net_raw"), Capability::from_name("")), (None, None));
    }

    #[test]
    fn sets_are_their_bits() {
        let both: CapabilitySet = [Capability::NET_RAW, Capability::NET_BIND_SERVICE].into_iter().collect();
        assert_eq!(both.bits(), 0x2400);
        assert_eq!(both.to_string(), "cap_net_bind_service,cap_net_raw");
        assert!(both.contains(Capability::NET_RAW));
        assert_eq!(both.minus(Capability::NET_RAW.into()), Capability::NET_BIND_SERVICE.into());
        assert_eq!(both.intersection(CapabilitySet::from_bits(0x2001)), Capability::NET_RAW.into());
        assert!(both.is_subset(both) && !both.is_subset(Capability::NET_RAW.into()));
        assert_eq!(CapabilitySet::NAMED.bits(), 0x1ff_ffff_ffff);
        assert_eq!(CapabilitySet::from_bits(u64::MAX).iter().count(), 64);
        assert!(CapabilitySet::EMPTY.is_empty() && CapabilitySet::EMPTY.iter().next().is_none());
    }
}
