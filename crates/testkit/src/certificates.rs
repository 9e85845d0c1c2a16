//! Certificates for tests, made by openssl.

use std::process::Command;

use tempfile::TempDir;

/// A directory with CAs and certificates, all of them new.
#[derive(Debug)]
pub struct Certificates(TempDir);

const CA_CONFIG: &str = "[ca]\ndefault_ca = ca\n[ca]\ndatabase = index\nserial = serial\nnew_certs_dir = .\n\
                         default_md = sha256\npolicy = policy\n[policy]\ncommonName = supplied\n";

/// A server that must not be talked to.
#[derive(Debug)]
pub struct Refusal {
    /// Which certificate it has.
    pub server: &'static str,
    /// Where it is, after the account; `PORT` stands for its port.
    pub at: String,
    /// Whether the URL is wrong, and not the server.
    pub is_mistake: bool,
    /// Words of the reason and its mend.
    pub words: Vec<&'static str>,
}

impl Certificates {
    fn start() -> Self {
        let made = Self(TempDir::new().expect("a directory can be made"));
        std::fs::write(made.path("ca.conf"), CA_CONFIG).expect("it can be written to");
        made
    }

    /// Makes the CAs `ca` and `other`, and from `ca`, for `localhost`, the certificates `server`, `old` (expired) and `new`
    /// (not valid yet).
    pub fn usual() -> Self {
        let made = Self::start();
        made.ca("ca");
        made.ca("other");
        for (name, from, to) in [
            ("server", "20240101000000Z", "20990101000000Z"),
            ("old", "20200101000000Z", "20200201000000Z"),
            ("new", "20980101000000Z", "20990101000000Z"),
        ] {
            made.host(name, "ca", "localhost", from, to);
        }
        made
    }

    /// Where a file is; `NAME.pem` has the certificate of this name, and `NAME.key` its key.
    pub fn path(&self, file: &str) -> String {
        self.0.path().join(file).display().to_string()
    }

    /// What a client must refuse, and how it says so.
    pub fn refusals(&self) -> Vec<Refusal> {
        let [ca, other, key] = ["ca.pem", "other.pem", "ca.key"].map(|file| self.path(file));
        let refusal = |server, at: String, is_mistake, words: &[&'static str]| Refusal {
            server,
            at,
            is_mistake,
            words: words.to_vec(),
        };
        vec![
            refusal("server", "localhost:PORT".to_owned(), false, &["no public CA", "?cacertfile="]),
            refusal(
                "server",
                format!("localhost:PORT?cacertfile={other}"),
                false,
                &["other.pem", "does not vouch"],
            ),
            refusal(
                "server",
                format!("127.0.0.1:PORT?cacertfile={ca}"),
                false,
                &["not for `127.0.0.1`", "localhost"],
            ),
            refusal("old", format!("localhost:PORT?cacertfile={ca}"), false, &["has expired", "renew"]),
            refusal("new", format!("localhost:PORT?cacertfile={ca}"), false, &["is not valid yet"]),
            refusal(
                "server",
                "localhost:PORT?cacertfile=/no/file".to_owned(),
                true,
                &["/no/file", "cacertfile"],
            ),
            refusal("server", format!("localhost:PORT?cacertfile={key}"), true, &["holds no certificate"]),
        ]
    }

    /// Makes a CA.
    fn ca(&self, name: &str) {
        let (key, pem, subject) = (format!("{name}.key"), format!("{name}.pem"), format!("/CN={name}"));
        self.run(&[
            "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt", CURVE, "-keyout", &key,
        ])
        .args(["-out", &pem, "-subj", &subject])
        .finish();
    }

    /// Makes a certificate for a host, signed by a CA that was made before; valid from then to then.
    fn host(&self, name: &str, ca: &str, host: &str, from: &str, to: &str) {
        let [key, pem, request] = ["key", "pem", "csr"].map(|kind| format!("{name}.{kind}"));
        let (ca_key, ca_pem, subject) = (format!("{ca}.key"), format!("{ca}.pem"), format!("/CN={host}"));
        self.run(&["req", "-nodes", "-newkey", "ec", "-pkeyopt", CURVE, "-keyout", &key, "-out", &request])
            .args(["-subj", &subject])
            .finish();
        std::fs::write(self.path("extensions"), format!("subjectAltName = DNS:{host}\n"))
            .expect("it can be written to");
        std::fs::write(self.path("index"), "").expect("it can be written to");
        std::fs::write(self.path("serial"), "01\n").expect("it can be written to");
        self.run(&[
            "ca", "-batch", "-config", "ca.conf", "-keyfile", &ca_key, "-cert", &ca_pem, "-in", &request,
        ])
        .args(["-out", &pem, "-notext", "-extfile", "extensions", "-startdate", from, "-enddate", to])
        .finish();
    }

    fn run(&self, arguments: &[&str]) -> Running {
        let mut command = Command::new("openssl");
        command.current_dir(self.0.path()).args(arguments);
        Running(command)
    }
}

const CURVE: &str = "ec_paramgen_curve:prime256v1";

struct Running(Command);

impl Running {
    fn args<const N: usize>(mut self, arguments: [&str; N]) -> Self {
        self.0.args(arguments);
        self
    }

    fn finish(mut self) {
        let output = self.0.output().expect("openssl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
