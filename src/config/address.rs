//! URLs as configs write them, in parts. Used by the rules of configs and by `doctor`.

/// The parts of a URL that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `mqtt`, `mqtts`, `http`, `https`.
    pub scheme: String,
    /// Host name or IP address (without brackets).
    pub host: String,
    /// Port: as written, else the scheme's own.
    pub port: u16,
}

/// Why a text is not such a URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It has another scheme, or none.
    #[error("{0}")]
    Scheme(String),
    /// User or password in it.
    #[error("a URL does not hold user or password here; `user` and `password` do")]
    Credentials,
    /// No host.
    #[error("it names no host (an IPv6 address stands in brackets)")]
    Host,
    /// Not a port.
    #[error("`{0}` is not a port from 1 to 65535")]
    Port(String),
    /// A path where there is none.
    #[error("a broker has no path: `/{0}` has no meaning")]
    Path(String),
}

/// The schemes of brokers, with their ports.
pub const MQTT: &[(&str, u16)] = &[("mqtt", 1883), ("mqtts", 8883)];
/// The schemes of HTTP, with their ports.
pub const HTTP: &[(&str, u16)] = &[("http", 80), ("https", 443)];

impl Address {
    /// Reads a URL with one of `schemes`.
    pub fn parse(url: &str, schemes: &[(&str, u16)]) -> Result<Address, AddressError> {
        let names: Vec<String> = schemes.iter().map(|(name, _)| format!("`{name}://`")).collect();
        let names = names.join(" or ");
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(AddressError::Scheme(format!("it does not begin with {names}")));
        };
        let Some((scheme, port)) = schemes.iter().find(|(name, _)| *name == scheme) else {
            return Err(AddressError::Scheme(format!(
                "`{scheme}://` is not spoken here, but {names}"
            )));
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err(AddressError::Credentials);
        }
        if scheme.starts_with("mqtt") && !path.is_empty() {
            return Err(AddressError::Path(path.to_owned()));
        }
        let (host, port) = host_and_port(authority, *port)?;
        Ok(Address { scheme: (*scheme).to_owned(), host, port })
    }

    /// Whether what is sent there is encrypted.
    pub fn encrypted(&self) -> bool {
        self.scheme.ends_with('s')
    }

    /// Whether it is this machine.
    pub fn loopback(&self) -> bool {
        let ip = self.host.parse::<std::net::IpAddr>();
        self.host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }
}

fn host_and_port(authority: &str, default: u16) -> Result<(String, u16), AddressError> {
    let (host, port) = match authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let bare = host.contains(':') && !authority.starts_with('[');
    if host.is_empty() || bare || host.contains(char::is_whitespace) {
        return Err(AddressError::Host);
    }
    let port = match port {
        None => default,
        Some(text) => text
            .parse::<u16>()
            .ok()
            .filter(|p| *p > 0)
            .ok_or_else(|| AddressError::Port(text.to_owned()))?,
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_in_parts() {
        let read = |url| Address::parse(url, MQTT).map(|a| (a.host, a.port));
        assert_eq!(read("mqtt://broker"), Ok(("broker".into(), 1883)));
        assert_eq!(read("mqtts://[::1]:9000/"), Ok(("::1".into(), 9000)));
        assert_eq!(read("mqtt://u:p@broker"), Err(AddressError::Credentials));
        assert_eq!(read("mqtt://:1883"), Err(AddressError::Host));
        assert_eq!(read("mqtt://broker:mqtt"), Err(AddressError::Port("mqtt".into())));
        assert_eq!(read("mqtt://broker:0"), Err(AddressError::Port("0".into())));
        assert_eq!(read("mqtt://broker/x"), Err(AddressError::Path("x".into())));
        assert!(matches!(read("ws://broker"), Err(AddressError::Scheme(_))));
        assert!(matches!(read("broker:1883"), Err(AddressError::Scheme(_))));
    }
}
