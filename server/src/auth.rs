//! Who may talk to us: users and passwords of a file, compared in constant time.

use std::path::Path;

use anyhow::{Context, Result, bail};
use subtle::{Choice, ConstantTimeEq};

/// Users and passwords.
#[derive(Clone, Default)]
pub(crate) struct Credentials(Vec<(Vec<u8>, Vec<u8>)>);

impl Credentials {
    /// Reads lines `user:password`. What follows a second colon belongs to memcached's future and is left alone.
    pub(crate) fn read(path: &Path) -> Result<Credentials> {
        let text = std::fs::read(path).with_context(|| format!("-Y {}", path.display()))?;
        let mut all = Vec::new();
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii_end();
            if line.is_empty() {
                continue;
            }
            let mut parts = line.splitn(3, |byte| *byte == b':');
            match (parts.next(), parts.next()) {
                (Some(user), Some(password)) if !user.is_empty() => all.push((user.to_vec(), password.to_vec())),
                _ => bail!("-Y {}, line {}: write user:password", path.display(), number + 1),
            }
        }
        if all.is_empty() {
            bail!("-Y {}: no line of user:password is in it", path.display());
        }
        Ok(Credentials(all))
    }

    /// Whether this user has this password. Every entry is compared, whatever the outcome.
    pub(crate) fn accept(&self, user: &[u8], password: &[u8]) -> bool {
        let fits = |known: &(Vec<u8>, Vec<u8>)| known.0.ct_eq(user) & known.1.ct_eq(password);
        self.0.iter().map(fits).fold(Choice::from(0), |any, one| any | one).into()
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials of {} users", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_names_who_may() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("auth");
        std::fs::write(&path, "foo:bar\n\nbaz:x:later\r\n").unwrap();
        let known = Credentials::read(&path).unwrap();
        assert!(known.accept(b"foo", b"bar") && known.accept(b"baz", b"x"));
        assert!(!known.accept(b"foo", b"x") && !known.accept(b"", b"") && !known.accept(b"foo", b"bar2"));
        std::fs::write(&path, "foo:bar\nnonsense\n").unwrap();
        assert!(format!("{:#}", Credentials::read(&path).unwrap_err()).contains("line 2"));
    }
}
