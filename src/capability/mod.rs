//! Linux file capabilities as pure values: sets of capabilities, the text of setcap(8) and getcap(8), and the bytes of the
//! extended attribute.
//!
//! A [`FileCapabilities`] is read from text with `FromStr` (the whole grammar of cap_from_text(3)), printed as getcap(8)
//! prints it, and converted from and to the value of the attribute [`XATTR`] with [`FileCapabilities::decode`] and
//! [`FileCapabilities::encode`]. Nothing here touches a file.

mod set;
mod text;
mod xattr;

pub use set::{Capability, CapabilitySet};
pub use xattr::{FileCapabilities, XATTR};
