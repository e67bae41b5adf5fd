//! Debian's `docker-registry`, on a port that the kernel chose, with the image in it.

use std::fs::{self, File};
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{image, tools};

pub(crate) struct Registry {
    process: Child,
    pub(crate) port: u16,
    data: TempDir,
}

impl Registry {
    /// Holds the image as `kong:3.9`.
    pub(crate) fn with_kong() -> Self {
        let image = image::directory();
        let registry = Self::start();
        tools::run(
            tools::command("skopeo")
                .args(["copy", "--quiet", "--dest-tls-verify=false"])
                .arg(format!("dir:{}", image.display()))
                .arg(registry.docker("3.9")),
        );
        assert_eq!(registry.digest("3.9"), image::manifest_digest(), "skopeo changed the manifest on its way");
        registry
    }

    pub(crate) fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let settings = data.path().join("registry.yml");
        let storage = data.path().join("storage");
        fs::write(
            &settings,
            format!(
                "version: 0.1\nlog: {{level: info, accesslog: {{disabled: false}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n",
                storage.display()
            ),
        )
        .unwrap();
        let log = File::create(data.path().join("log")).unwrap();
        tools::run(tools::command("docker-registry").arg("--version"));
        // The registry has to end with this process even if no destructor runs.
        let process = tools::command("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&settings)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut registry = Self { process, port: 0, data };
        let deadline = Instant::now() + Duration::from_secs(30);
        registry.port = loop {
            let log = registry.log();
            let port = log.split("listening on 127.0.0.1:").nth(1).and_then(|rest| rest.split('"').next());
            if let Some(port) = port {
                break port.parse().unwrap();
            }
            assert!(Instant::now() < deadline, "docker-registry does not listen:\n{log}");
            sleep(Duration::from_millis(20));
        };
        registry
    }

    /// As capatch and containerd are given it.
    pub(crate) fn kong(&self, tag: &str) -> String {
        format!("127.0.0.1:{}/kong:{tag}", self.port)
    }

    /// As skopeo is given it.
    pub(crate) fn docker(&self, tag: &str) -> String {
        format!("docker://{}", self.kong(tag))
    }

    pub(crate) fn raw_manifest(&self, tag: &str) -> String {
        tools::run(tools::command("skopeo").args(["inspect", "--raw", "--tls-verify=false"]).arg(self.docker(tag)))
    }

    pub(crate) fn raw_config(&self, tag: &str) -> String {
        tools::run(
            tools::command("skopeo").args(["inspect", "--config", "--raw", "--tls-verify=false"]).arg(self.docker(tag)),
        )
    }

    /// Stores a manifest or an index.
    pub(crate) fn put_manifest(&self, tag: &str, media_type: &str, body: &str) {
        let file = self.data.path().join("put");
        fs::write(&file, body).unwrap();
        tools::run(
            tools::command("curl")
                .args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--upload-file"])
                .arg(&file)
                .args(["--header", &format!("Content-Type: {media_type}")])
                .arg(format!("http://127.0.0.1:{}/v2/kong/manifests/{tag}", self.port)),
        );
    }

    pub(crate) fn digest(&self, tag: &str) -> String {
        let file = self.data.path().join("manifest");
        fs::write(&file, self.raw_manifest(tag)).unwrap();
        image::sha256(&file)
    }

    /// The image as an OCI layout, written by skopeo, which turns it into OCI media types.
    pub(crate) fn copy_to_layout(&self, tag: &str, layout: &str) {
        tools::run(
            tools::command("skopeo")
                .args(["copy", "--quiet", "--src-tls-verify=false"])
                .arg(self.docker(tag))
                .arg(format!("oci:{layout}:{tag}")),
        );
    }

    /// The requests that `action` made, as `METHOD path`.
    pub(crate) fn requests_of(&self, action: impl FnOnce()) -> Vec<String> {
        let before = self.requests().len();
        action();
        // A request is logged after its answer is sent; when ours is there, all the earlier ones are.
        let last = format!("/v2/?{before}");
        tools::run(
            tools::command("curl")
                .args(["--silent", "--fail", "--noproxy", "*"])
                .arg(format!("http://127.0.0.1:{}{last}", self.port)),
        );
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let requests = self.requests();
            if let Some(end) = requests.iter().position(|request| request.ends_with(&last)) {
                return requests[before..end].to_vec();
            }
            assert!(Instant::now() < deadline, "no access log:\n{}", self.log());
            sleep(Duration::from_millis(20));
        }
    }

    fn requests(&self) -> Vec<String> {
        self.log()
            .lines()
            .filter_map(|line| line.split('"').nth(1))
            .filter_map(|request| request.strip_suffix(" HTTP/1.1"))
            .map(str::to_owned)
            .collect()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.data.path().join("log")).unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
