//! Media types of manifests, configs and layers, in the two families that exist: Docker's and OCI's.
//!
//! Sources: image-spec `media-types.md`; distribution `docs/content/spec/manifest-v2-2.md`; ocicrypt `docs/spec.md`.

use std::fmt;

use oci_spec::image::MediaType as Oci;

/// The two families. A manifest and everything it names belong to one of them (design: family follows the source).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `application/vnd.docker.…`
    Docker,
    /// `application/vnd.oci.…`
    Oci,
}

/// How a layer blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Plain tar.
    None,
    /// gzip, one member or several.
    Gzip,
    /// Zstandard, one frame or several.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::None => "no compression",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        })
    }
}

/// What a media type says that a blob is, as far as we act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An image index or a Docker manifest list.
    Index(Family),
    /// An image manifest.
    Manifest(Family),
    /// An image config.
    Config(Family),
    /// A layer tar; `foreign` ones (non-distributable) may have to be fetched from `urls`.
    Layer {
        /// The family of the type.
        family: Family,
        /// What the type claims; the bytes decide.
        compression: Compression,
        /// Non-distributable.
        foreign: bool,
    },
    /// A layer that is encrypted, whatever is inside (`+encrypted`, OCIcrypt).
    Encrypted,
    /// Docker's schema 1, which nobody should need any more.
    Schema1,
    /// Anything else: passed through as bytes, never interpreted.
    Other,
}

/// Docker's manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's layer, gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker's layer, zstd.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
/// OCI's index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI's manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI's image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI's layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What a request for a manifest accepts, best first.
pub const MANIFEST_TYPES: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];

/// The kind of `media_type`; parameters behind a `;` do not count.
pub fn kind(media_type: &str) -> Kind {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    let docker = |compression, foreign| Kind::Layer { family: Family::Docker, compression, foreign };
    let oci = |compression, foreign| Kind::Layer { family: Family::Oci, compression, foreign };
    match essence {
        DOCKER_INDEX => return Kind::Index(Family::Docker),
        DOCKER_MANIFEST => return Kind::Manifest(Family::Docker),
        DOCKER_CONFIG => return Kind::Config(Family::Docker),
        DOCKER_LAYER_GZIP => return docker(Compression::Gzip, false),
        "application/vnd.docker.image.rootfs.diff.tar" => return docker(Compression::None, false),
        DOCKER_LAYER_ZSTD => return docker(Compression::Zstd, false),
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => return docker(Compression::Gzip, true),
        "application/vnd.docker.distribution.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v1+prettyjws" => return Kind::Schema1,
        _ => {}
    }
    if essence.ends_with("+encrypted") {
        return Kind::Encrypted;
    }
    match Oci::from(essence) {
        Oci::ImageIndex => Kind::Index(Family::Oci),
        Oci::ImageManifest => Kind::Manifest(Family::Oci),
        Oci::ImageConfig => Kind::Config(Family::Oci),
        Oci::ImageLayer => oci(Compression::None, false),
        Oci::ImageLayerGzip => oci(Compression::Gzip, false),
        Oci::ImageLayerZstd => oci(Compression::Zstd, false),
        Oci::ImageLayerNonDistributable => oci(Compression::None, true),
        Oci::ImageLayerNonDistributableGzip => oci(Compression::Gzip, true),
        Oci::ImageLayerNonDistributableZstd => oci(Compression::Zstd, true),
        _ => Kind::Other,
    }
}

/// The media type of a gzip layer in `family`.
pub fn gzip_layer(family: Family) -> &'static str {
    match family {
        Family::Docker => DOCKER_LAYER_GZIP,
        Family::Oci => OCI_LAYER_GZIP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_kinds() {
        for (name, expected) in [
            (OCI_INDEX, Kind::Index(Family::Oci)),
            (DOCKER_INDEX, Kind::Index(Family::Docker)),
            (OCI_MANIFEST, Kind::Manifest(Family::Oci)),
            (OCI_CONFIG, Kind::Config(Family::Oci)),
            (DOCKER_CONFIG, Kind::Config(Family::Docker)),
            ("application/vnd.oci.image.manifest.v1+json; charset=utf-8", Kind::Manifest(Family::Oci)),
            (OCI_LAYER_GZIP, Kind::Layer { family: Family::Oci, compression: Compression::Gzip, foreign: false }),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
                Kind::Layer { family: Family::Oci, compression: Compression::Zstd, foreign: true },
            ),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted; a=b", Kind::Encrypted),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted", Kind::Encrypted),
            ("application/vnd.oci.empty.v1+json", Kind::Other),
            ("application/vnd.in-toto+json", Kind::Other),
            ("", Kind::Other),
        ] {
            assert_eq!(kind(name), expected, "{name}");
        }
    }
}
