//! Secrets: read where the config says they are, at every connection, so that a renewed one needs no restart.
//!
//! `link/mqtt.rs` and `uplink/http.rs` call it. Its errors name the variable or the file, never the value.

use crate::config::Secret;

use super::SetupError;

/// The secret itself. A file's last line break is not part of it.
///
/// # Errors
/// The variable is not set, or the file cannot be read as text.
pub fn resolve(secret: &Secret) -> Result<String, SetupError> {
    match secret {
        Secret::Env(name) => std::env::var(name).map_err(|_| SetupError::Variable(name.clone())),
        Secret::File(path) => {
            let mut text = std::fs::read_to_string(path)
                .map_err(|source| SetupError::SecretFile { path: path.clone(), source })?;
            if text.ends_with('\n') {
                text.pop();
                if text.ends_with('\r') {
                    text.pop();
                }
            }
            Ok(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lose_one_line_break_and_errors_name_the_place() {
        let dir = tempfile::tempdir().unwrap();
        for (written, read) in [("s3cret\n", "s3cret"), ("s3cret\r\n", "s3cret"), ("a\n\n", "a\n")]
        {
            let path = dir.path().join("password");
            std::fs::write(&path, written).unwrap();
            assert_eq!(resolve(&Secret::File(path)).unwrap(), read);
        }
        let missing = Secret::File(dir.path().join("missing"));
        assert!(resolve(&missing).unwrap_err().to_string().contains("missing"));
        let unset = Secret::Env("FOREBAY_TEST_SURELY_NOT_SET".into());
        assert!(resolve(&unset).unwrap_err().to_string().contains("FOREBAY_TEST_SURELY_NOT_SET"));
        assert_eq!(resolve(&Secret::Env("PATH".into())).unwrap(), std::env::var("PATH").unwrap());
    }
}
