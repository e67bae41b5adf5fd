//! The messages of containerd's API that we exchange, as far as we use them; what else is in them is skipped.
//!
//! Source: containerd `api/services/{content,images,leases}/v1`, `api/types/descriptor.proto`.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

/// Labels of content, images and leases. In order, so that one message has one encoding.
pub(super) type Labels = BTreeMap<String, String>;

/// `containerd.types.Descriptor`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Descriptor {
    #[prost(string, tag = "1")]
    pub(super) media_type: String,
    #[prost(string, tag = "2")]
    pub(super) digest: String,
    #[prost(int64, tag = "3")]
    pub(super) size: i64,
}

/// `google.protobuf.FieldMask`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct FieldMask {
    #[prost(string, repeated, tag = "1")]
    pub(super) paths: Vec<String>,
}

/// `google.protobuf.Empty`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Empty {}

// containerd.services.images.v1

#[derive(Clone, PartialEq, Message)]
pub(super) struct Image {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "3")]
    pub(super) target: Option<Descriptor>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetImageRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

/// The answer to Get, Create and Update.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ImageResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ListImagesResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) images: Vec<Image>,
}

/// The request of Create, and of Update with a mask.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PutImageRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) image: Option<Image>,
    #[prost(message, optional, tag = "2")]
    pub(super) update_mask: Option<FieldMask>,
}

// containerd.services.namespaces.v1

#[derive(Clone, PartialEq, Message)]
pub(super) struct Namespace {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ListNamespacesResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) namespaces: Vec<Namespace>,
}

// containerd.services.leases.v1

#[derive(Clone, PartialEq, Message)]
pub(super) struct Lease {
    #[prost(string, tag = "1")]
    pub(super) id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CreateLeaseRequest {
    #[prost(btree_map = "string, string", tag = "3")]
    pub(super) labels: Labels,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CreateLeaseResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) lease: Option<Lease>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DeleteLeaseRequest {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    /// Collect garbage before the answer.
    #[prost(bool, tag = "2")]
    pub(super) sync: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) kind: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AddResourceRequest {
    #[prost(string, tag = "1")]
    pub(super) lease: String,
    #[prost(message, optional, tag = "2")]
    pub(super) resource: Option<Resource>,
}

// containerd.services.content.v1

#[derive(Clone, PartialEq, Message)]
pub(super) struct Info {
    #[prost(string, tag = "1")]
    pub(super) digest: String,
    #[prost(int64, tag = "2")]
    pub(super) size: i64,
    #[prost(btree_map = "string, string", tag = "5")]
    pub(super) labels: Labels,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct InfoRequest {
    #[prost(string, tag = "1")]
    pub(super) digest: String,
}

/// The answer to Info and Update.
#[derive(Clone, PartialEq, Message)]
pub(super) struct InfoResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) info: Option<Info>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct UpdateRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) info: Option<Info>,
    #[prost(message, optional, tag = "2")]
    pub(super) update_mask: Option<FieldMask>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ReadRequest {
    #[prost(string, tag = "1")]
    pub(super) digest: String,
    #[prost(int64, tag = "2")]
    pub(super) offset: i64,
    #[prost(int64, tag = "3")]
    pub(super) size: i64,
}

/// A piece of content. Its `offset` is left out: some versions count it from the offset that was asked for.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ReadResponse {
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) data: Bytes,
}

/// The request of Status and Abort.
#[derive(Clone, PartialEq, Message)]
pub(super) struct IngestRequest {
    #[prost(string, tag = "1")]
    pub(super) ingest: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(int64, tag = "4")]
    pub(super) offset: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum WriteAction {
    Stat = 0,
    Write = 1,
    Commit = 2,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WriteRequest {
    #[prost(enumeration = "WriteAction", tag = "1")]
    pub(super) action: i32,
    /// Names the ingest; only the first message of a stream has to.
    #[prost(string, tag = "2")]
    pub(super) ingest: String,
    #[prost(int64, tag = "3")]
    pub(super) total: i64,
    /// The digest.
    #[prost(string, tag = "4")]
    pub(super) expected: String,
    /// Where `data` goes: the end of what is there, or 0, which empties it first.
    #[prost(int64, tag = "5")]
    pub(super) offset: i64,
    #[prost(bytes = "bytes", tag = "6")]
    pub(super) data: Bytes,
    #[prost(btree_map = "string, string", tag = "7")]
    pub(super) labels: Labels,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WriteResponse {
    #[prost(int64, tag = "4")]
    pub(super) offset: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// Written down by the rules of protobuf.dev/programming-guides/encoding: `field << 3 | wire type`, varints, and
    /// lengths before text; a map is a repeated message of key (1) and value (2).
    #[test]
    fn requests_have_the_bytes_of_the_protocol() {
        let target = Descriptor { media_type: "m".into(), digest: "d".into(), size: 300 };
        let image = Some(Image { name: "n".into(), target: Some(target) });
        let mask = Some(FieldMask { paths: vec!["target".into()] });
        let info = Some(Info { digest: "d".into(), size: 0, labels: labels(&[("b", "2"), ("a", "1")]) });
        let write = WriteRequest {
            action: WriteAction::Commit.into(),
            ingest: "r".into(),
            total: 5,
            expected: "e".into(),
            offset: 2,
            data: Bytes::from_static(b"llo"),
            labels: labels(&[("k", "v")]),
        };
        let lease = AddResourceRequest {
            lease: "l".into(),
            resource: Some(Resource { id: "d".into(), kind: "content".into() }),
        };
        for (encoded, bytes) in [
            (GetImageRequest { name: "n".into() }.encode_to_vec(), &b"\x0a\x01n"[..]),
            (
                PutImageRequest { image, update_mask: mask }.encode_to_vec(),
                b"\x0a\x0e\x0a\x01n\x1a\x09\x0a\x01m\x12\x01d\x18\xac\x02\x12\x08\x0a\x06target",
            ),
            (
                UpdateRequest { info, update_mask: None }.encode_to_vec(),
                b"\x0a\x13\x0a\x01d\x2a\x06\x0a\x01a\x12\x011\x2a\x06\x0a\x01b\x12\x012",
            ),
            (CreateLeaseRequest { labels: labels(&[("k", "v")]) }.encode_to_vec(), b"\x1a\x06\x0a\x01k\x12\x01v"),
            (DeleteLeaseRequest { id: "l".into(), sync: true }.encode_to_vec(), b"\x0a\x01l\x10\x01"),
            (lease.encode_to_vec(), b"\x0a\x01l\x12\x0c\x0a\x01d\x12\x07content"),
            (
                ReadRequest { digest: "d".into(), offset: 1, size: 128 }.encode_to_vec(),
                b"\x0a\x01d\x10\x01\x18\x80\x01",
            ),
            (write.encode_to_vec(), b"\x08\x02\x12\x01r\x18\x05\x22\x01e\x28\x02\x32\x03llo\x3a\x06\x0a\x01k\x12\x01v"),
            (Empty {}.encode_to_vec(), b""),
        ] {
            assert_eq!(encoded, bytes, "{}", encoded.escape_ascii());
        }
    }

    #[test]
    fn answers_are_read_and_what_is_unknown_is_skipped() {
        // A timestamp in field 7, a label in field 2 and annotations (5) of the target.
        let image =
            b"\x0a\x21\x0a\x01n\x12\x06\x0a\x01k\x12\x01v\x1a\x10\x0a\x01m\x12\x01d\x18\x07\x2a\x06\x0a\x01a\x12\x01b\x3a\x02\x08\x01";
        let target = Descriptor { media_type: "m".into(), digest: "d".into(), size: 7 };
        let expected = ImageResponse { image: Some(Image { name: "n".into(), target: Some(target) }) };
        assert_eq!(ImageResponse::decode(&image[..]).unwrap(), expected);

        let info = b"\x0a\x13\x0a\x01d\x10\x05\x1a\x02\x08\x01\x2a\x06\x0a\x01a\x12\x011\x22\x00"; // size 5, times, label
        let expected = Info { digest: "d".into(), size: 5, labels: labels(&[("a", "1")]) };
        assert_eq!(InfoResponse::decode(&info[..]).unwrap(), InfoResponse { info: Some(expected) });

        assert_eq!(ReadResponse::decode(&b"\x08\x01\x12\x02hi"[..]).unwrap().data, "hi");
        assert_eq!(WriteResponse::decode(&b"\x08\x01\x20\x09\x28\x0a"[..]).unwrap().offset, 9);
        assert_eq!(StatusResponse::decode(&b"\x0a\x02\x20\x03"[..]).unwrap().status.unwrap().offset, 3);
        for broken in [&b"\x0a\x05n"[..], b"\x0a", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0a\x01\xff"] {
            assert!(GetImageRequest::decode(broken).is_err(), "{}", broken.escape_ascii());
        }
    }
}
