//! Digests: the grammar, the two algorithms that we can verify, and hashing.
//!
//! Source: image-spec `descriptor.md`, "Digests". `oci-spec` checks the grammar; algorithms that we could not verify
//! are refused here, so that a [`Digest`] can always be checked and is always safe as a path or URL component.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

use crate::error::{Error, Result};

/// How a digest was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, what everything of ours is named by.
    Sha256,
    /// SHA-512, which the specification allows.
    Sha512,
}

impl Algorithm {
    /// `sha256` or `sha512`.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }
}

/// `sha256:` and 64, or `sha512:` and 128, lower-case hexadecimal digits. No other string can be one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    text: String,
}

impl Digest {
    /// The SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The algorithm in front of the colon.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hexadecimal digits behind the colon.
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.name().len() + 1..]
    }

    /// The tag that stands in for the referrers API: `sha256-…` (distribution-spec, "Referrers Tag Schema").
    pub fn as_tag(&self) -> String {
        format!("{}-{}", self.algorithm.name(), &self.hex()[..64])
    }

    /// The whole digest, `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::content(format!("'{}' is not a digest", text.chars().take(160).collect::<String>()));
        let parsed = oci_spec::image::Digest::from_str(text).map_err(|_| bad())?;
        let algorithm = match parsed.algorithm().as_ref() {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            other => {
                return Err(Error::content(format!("digest '{text}' uses {other}, which capatch cannot verify"))
                    .hint("sha256 and sha512 are supported"));
            }
        };
        let length = match algorithm {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        };
        let hex = parsed.digest();
        if hex.len() != length || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad());
        }
        Ok(Digest { algorithm, text: text.to_owned() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether `tag` is what [`Digest::as_tag`] makes, or a whole digest with a dash in it, perhaps with what cosign puts
/// behind it: `.sig`, `.att`, `.sbom`. Such a tag names no image.
pub fn is_referrer_tag(tag: &str) -> bool {
    let digest = tag.split_once('.').map_or(tag, |(digest, _)| digest);
    let digits = |hex: &str| hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match digest.split_once('-') {
        Some(("sha256", hex)) => hex.len() == 64 && digits(hex),
        Some(("sha512", hex)) => matches!(hex.len(), 64 | 128) && digits(hex),
        _ => false,
    }
}

/// Hashes bytes as they pass.
#[derive(Clone)]
pub enum Hasher {
    /// Computes a SHA-256.
    Sha256(sha2::Sha256),
    /// Computes a SHA-512.
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// A hasher that has seen nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(sha2::Sha512::new()),
        }
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all bytes taken in.
    pub fn finish(self) -> Digest {
        let (algorithm, sum) = match self {
            Hasher::Sha256(hasher) => (Algorithm::Sha256, hasher.finalize().to_vec()),
            Hasher::Sha512(hasher) => (Algorithm::Sha512, hasher.finalize().to_vec()),
        };
        let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        Digest { algorithm, text: format!("{}:{hex}", algorithm.name()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_verifiable_digests_parse() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), format!("sha256:{hex}"));
        for bad in [
            "",
            "sha256",
            "sha256:",
            "sha256:../../etc/passwd",
            "sha256:%2e%2e",
            "sha/256:00",
            &format!("sha256:{}", hex.to_uppercase()),
            &format!("SHA256:{hex}"),
            &format!("sha256:{}", &hex[1..]),
            &format!("sha256:{hex}0"),
            &format!("sha512:{hex}"),
            &format!("blake3:{hex}"),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b85\0",
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
        }
        assert!(format!("sha512:{hex}{hex}").parse::<Digest>().is_ok());
    }

    #[test]
    fn tags_that_stand_for_referrers_are_known() {
        let (short, long) = (Digest::of(b""), format!("sha512:{}", "0f".repeat(64)).parse::<Digest>().unwrap());
        let whole = long.as_str().replace(':', "-");
        for tag in
            [&short.as_tag(), &long.as_tag(), &whole, &format!("{}.sig", short.as_tag()), &format!("{whole}.att")]
        {
            assert!(is_referrer_tag(tag), "{tag}");
        }
        let hex = short.hex();
        for image in [
            "",
            "3.9",
            "sha256-",
            hex,
            &format!("sha256-{hex}{hex}"),
            &format!("sha512-{}", &hex[1..]),
            &format!("sha256-{}", hex.to_uppercase()),
            &format!("sha384-{hex}"),
            &format!("v-{}", short.as_tag()),
        ] {
            assert!(!is_referrer_tag(image), "{image}");
        }
    }
}
