//! Certificates for one test, made by `openssl`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An authority in a folder, and what it signs.
pub struct Authority {
    folder: PathBuf,
}

const CURVE: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

impl Authority {
    /// Writes `ca.crt` into a folder.
    pub fn new(folder: &Path) -> Self {
        let authority = Self { folder: folder.to_owned() };
        let own = ["-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=stagehook test authority"];
        authority.openssl(&[["req", "-x509"].as_slice(), &CURVE, &own].concat());
        authority
    }

    /// The path of a file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes `NAME.crt` and `NAME.key`, good for this machine and for clients.
    pub fn sign(&self, name: &str) {
        let [key, request, certificate] = ["key", "csr", "crt"].map(|kind| format!("{name}.{kind}"));
        let own = ["-keyout", &key, "-out", &request, "-subj", "/CN=localhost"];
        let names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
        self.openssl(&[["req"].as_slice(), &CURVE, &own, &names].concat());
        let by = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-copy_extensions", "copyall"];
        let out = ["-in", &request, "-out", &certificate, "-days", "2"];
        self.openssl(&[["x509", "-req"].as_slice(), &out, &by].concat());
    }

    /// Puts a pair in the place of another, each file at once.
    pub fn put(&self, name: &str, place: &str) {
        for kind in ["crt", "key"] {
            let aside = self.path(&format!("{place}.{kind}.new"));
            std::fs::copy(self.path(&format!("{name}.{kind}")), &aside).unwrap();
            std::fs::rename(aside, self.path(&format!("{place}.{kind}"))).unwrap();
        }
    }

    fn openssl(&self, arguments: &[&str]) {
        let done = Command::new("openssl").args(arguments).current_dir(&self.folder).output().unwrap();
        assert!(done.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}
