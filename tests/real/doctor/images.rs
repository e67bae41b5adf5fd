//! Images that start as those of Kong do, each with its root file system.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::image::{self, sha256, text};
use crate::tools::{self, capatch};

/// The program by its path, in the place of `NGINX`.
const NGINX: &str = "/usr/local/openresty/nginx/sbin/nginx";

/// Start scripts that are told apart by who may do what with them.
const SCRIPTS: [(&str, &str, u32, (u32, u32)); 7] = [
    (
        "scripts/own.sh",
        "#!/bin/sh\nset -e\nchown kong NGINX\nexec NGINX -p /tmp -c /etc/kong/nginx.conf\n",
        0o755,
        (0, 0),
    ),
    ("scripts/unreadable.sh", "#!/bin/sh\nexec NGINX -p /tmp -c /etc/kong/nginx.conf\n", 0o711, (0, 0)),
    ("scripts/unreadable.bash", "#!/bin/bash\nexec NGINX -p /tmp -c /etc/kong/nginx.conf\n", 0o711, (0, 0)),
    ("scripts/owner.sh", "#!/bin/sh\nexec NGINX -p /tmp -c /etc/kong/nginx.conf\n", 0o700, (1000, 1000)),
    ("scripts/group.sh", "#!/bin/sh\nexec NGINX -p /tmp -c /etc/kong/nginx.conf\n", 0o750, (0, 4711)),
    (
        "scripts/directory.sh",
        "#!/bin/sh
find /scripts/start.d/ -follow -type f -print | sort -V | while read -r f; do
    case \"$f\" in
        *.sh) if [ -x \"$f\" ]; then \"$f\"; fi ;;
    esac
done
exec su-exec kong NGINX -p /tmp -c /etc/kong/nginx.conf
",
        0o755,
        (0, 0),
    ),
    ("scripts/start.d/10-own.sh", "#!/bin/sh\nchown 0:0 NGINX\n", 0o755, (0, 0)),
];

/// An image in a layout.
pub(super) struct Image {
    pub(super) name: &'static str,
    pub(super) reference: String,
    pub(super) root: PathBuf,
    /// Its config.
    pub(super) config: Value,
}

/// All of them; gone with the directory.
pub(super) struct Images {
    directory: TempDir,
    pub(super) all: Vec<Image>,
}

impl Images {
    /// Without a capability, with the one of `patch`, and with the same permitted only; and two whose start script begins as
    /// root, without and with.
    pub(super) fn new() -> Self {
        // Not in /tmp, which many machines mount with nosuid; and all users have to get there.
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut images = Images { directory, all: Vec::new() };
        fs::create_dir_all(images.path("layout/blobs/sha256")).unwrap();
        fs::write(images.path("layout/oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
        for layer in layers(&image::manifest()) {
            fs::copy(image::directory().join(&layer), images.blob(&layer)).unwrap();
        }
        let plain = images.with_layer("plain", "start.sh", "kong");
        let as_root = images.with_layer("root", "start-as-root.sh", "");
        images.index(&[("plain", &plain), ("root", &as_root)]);
        for (source, name, capabilities) in [
            ("plain", "ep", "cap_net_bind_service=+ep"),
            ("plain", "p", "cap_net_bind_service=+p"),
            ("root", "root-ep", "cap_net_bind_service=+ep"),
        ] {
            let reference = |name| format!("oci:{}:{name}", images.path("layout").display());
            capatch(&["patch", &reference(source), &reference(name), "--cap", capabilities]);
        }
        images.unpack();
        images
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn blob(&self, hex: &str) -> PathBuf {
        self.path("layout/blobs/sha256").join(hex)
    }

    /// Puts a file among the blobs: its descriptor.
    fn add(&self, file: &Path, media_type: &str) -> Value {
        let (digest, size) = (sha256(file), fs::metadata(file).unwrap().len());
        fs::rename(file, self.blob(hex(&digest))).unwrap();
        json!({"mediaType": media_type, "size": size, "digest": digest})
    }

    fn add_json(&self, value: &Value, media_type: &str) -> Value {
        fs::write(self.path("json"), value.to_string()).unwrap();
        self.add(&self.path("json"), media_type)
    }

    /// The image of all tests with a layer on top in which there is what Kong starts with: the descriptor of its manifest.
    fn with_layer(&self, name: &str, script: &str, user: &str) -> Value {
        let tree = self.path(name);
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/doctor");
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let write = |path: &str, content: &[u8], mode| {
            let file = tree.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, content).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("docker-entrypoint.sh", &fs::read(sources.join(script)).unwrap(), 0o755);
        write("usr/local/openresty/bin/resty", &fs::read(sources.join("resty")).unwrap(), 0o755);
        write("usr/local/bin/kong", b"#!/usr/bin/env resty\n", 0o755);
        write("etc/kong/nginx.conf", &fs::read(sources.join("nginx.conf")).unwrap(), 0o644);
        write("etc/kong/cert.pem", cert.pem().as_bytes(), 0o644);
        write("etc/kong/key.pem", signing_key.serialize_pem().as_bytes(), 0o644);
        for (path, content, mode, (user, group)) in SCRIPTS {
            write(path, content.replace("NGINX", NGINX).as_bytes(), mode);
            chown(tree.join(path), Some(user), Some(group)).unwrap();
        }
        symlink("../openresty/bin/resty", tree.join("usr/local/bin/resty")).unwrap();
        if user.is_empty() {
            let mut gcc = tools::command("gcc");
            gcc.args(["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(tree.join("usr/local/bin/su-exec"));
            tools::run(gcc.arg(sources.join("su-exec.c")));
        }
        let (tar, gzip) = (self.path("layer.tar"), self.path("layer.tar.gz"));
        // Without directories: those of the image stay as they are.
        let pack =
            "find * ! -type d -print0 | tar --create --null --no-recursion --numeric-owner --files-from=- --file=\"$1\"
            gzip --fast --keep \"$1\"";
        tools::run(tools::command("sh").args(["-ec", pack, "sh"]).arg(&tar).current_dir(&tree));
        let (mut manifest, mut config) = (image::manifest(), image::config());
        let layer = self.add(&gzip, &text(&manifest["layers"][0]["mediaType"]));
        config["config"]["User"] = user.into();
        push(&mut config["rootfs"]["diff_ids"], sha256(&tar).into());
        push(&mut config["history"], json!({"created_by": "COPY docker-entrypoint.sh /"}));
        fs::remove_file(tar).unwrap();
        push(&mut manifest["layers"], layer);
        manifest["config"] = self.add_json(&config, &text(&manifest["config"]["mediaType"]));
        self.add_json(&manifest, &text(&manifest["mediaType"]))
    }

    fn index(&self, tags: &[(&str, &Value)]) {
        let tagged = |(tag, descriptor): &(&str, &Value)| {
            let mut descriptor = (*descriptor).clone();
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
            descriptor
        };
        let manifests: Vec<_> = tags.iter().map(tagged).collect();
        fs::write(self.path("layout/index.json"), json!({"schemaVersion": 2, "manifests": manifests}).to_string())
            .unwrap();
    }

    fn read(&self, descriptor: &Value) -> Value {
        image::json(&fs::read_to_string(self.blob(hex(&text(&descriptor["digest"])))).unwrap())
    }

    /// With GNU tar, layer by layer; what all images have in common, once.
    fn unpack(&mut self) {
        let common = layers(&image::manifest());
        let below = self.path("common");
        fs::create_dir(&below).unwrap();
        common.iter().for_each(|layer| self.extract(layer, &below));
        let index = image::json(&fs::read_to_string(self.path("layout/index.json")).unwrap());
        for name in ["plain", "ep", "p", "root", "root-ep"] {
            let is_meant = |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"] == name;
            let manifest = self.read(index["manifests"].as_array().unwrap().iter().find(is_meant).unwrap());
            let root = self.path(&format!("{name}-root"));
            // Hard links: tar makes new files and leaves those alone.
            tools::run(tools::command("cp").args(["--archive", "--link"]).arg(&below).arg(&root));
            let layers = layers(&manifest);
            let own = layers.strip_prefix(&common[..]).unwrap();
            own.iter().for_each(|layer| self.extract(layer, &root));
            // Where runc mounts something; in a user namespace it could not make them.
            for mount in ["dev", "proc"] {
                fs::create_dir_all(root.join(mount)).unwrap();
            }
            let reference = format!("oci:{}:{name}", self.path("layout").display());
            let config = self.read(&manifest["config"]);
            self.all.push(Image { name, reference, root, config });
        }
    }

    fn extract(&self, layer: &str, into: &Path) {
        let mut tar = tools::command("tar");
        tar.args(["--extract", "--gzip", "--numeric-owner", "--preserve-permissions", "--exclude=.wh.*"]);
        tar.args(["--xattrs", "--xattrs-include=*", "--directory"]).arg(into).arg("--file").arg(self.blob(layer));
        tools::run(&mut tar);
    }
}

fn push(array: &mut Value, value: Value) {
    array.as_array_mut().unwrap().push(value);
}

fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap()
}

/// What their blobs are called.
fn layers(manifest: &Value) -> Vec<String> {
    let layers = manifest["layers"].as_array().unwrap();
    layers.iter().map(|layer| hex(&text(&layer["digest"])).to_owned()).collect()
}
