//! How a connection ended, as the client saw it.

use rustls::AlertDescription;
use std::{io, time::Duration};
use tokio::time::Instant;

/// What closed a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// A TCP reset, or a connection that was gone when something was written.
    Reset,
    /// The stream's end without a word of TLS.
    Fin,
    /// The stream's end, announced by TLS.
    CloseNotify,
    /// A TLS alert.
    Alert(String),
    /// No connection came about.
    Refused,
    /// An HTTP answer that says `connection: close`, then the end.
    Answered(u16),
    /// The attack itself ended it, having reached what it wanted.
    Done,
    /// Nobody: it was still open when the attack was over.
    Open,
}

impl How {
    pub fn name(&self) -> String {
        match self {
            Self::Reset => "reset".into(),
            Self::Fin => "fin".into(),
            Self::CloseNotify => "close_notify".into(),
            Self::Alert(description) => format!("alert:{description}"),
            Self::Refused => "refused".into(),
            Self::Answered(status) => format!("answered:{status}"),
            Self::Done => "done".into(),
            Self::Open => "open".into(),
        }
    }

    /// What an end of the stream or an error of reading or writing says.
    pub fn of<T>(result: &io::Result<T>) -> Self {
        let Err(error) = result else {
            return Self::CloseNotify;
        };
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = tls {
            return Self::Alert(name(*alert));
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Fin,
            io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut => Self::Refused,
            _ => Self::Reset,
        }
    }
}

/// `decode_error` of `DecodeError`.
fn name(alert: AlertDescription) -> String {
    let mut name = String::new();
    for letter in format!("{alert:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// The alert in the record that these bytes begin with (RFC 8446, section 5.1), in plaintext.
pub fn plain_alert(bytes: &[u8]) -> Option<How> {
    match bytes {
        [21, 3, _, 0, 2, _, description, ..] => {
            Some(How::Alert(name(AlertDescription::from(*description))))
        }
        _ => None,
    }
}

/// One connection's end.
#[derive(Clone, Debug)]
pub struct Ending {
    pub how: How,
    /// The error code of the last GOAWAY that had one, or 0 if there was any at all.
    pub goaway: Option<u32>,
    /// From the connection's beginning to its end, or to the end of the attack.
    pub after: Duration,
}

impl Ending {
    pub fn of(how: How, since: Instant) -> Self {
        Self {
            how,
            goaway: None,
            after: since.elapsed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_closed() {
        let error = |kind: io::ErrorKind| How::of(&Err::<(), _>(kind.into()));
        assert_eq!(error(io::ErrorKind::ConnectionReset), How::Reset);
        assert_eq!(error(io::ErrorKind::BrokenPipe), How::Reset);
        assert_eq!(error(io::ErrorKind::UnexpectedEof), How::Fin);
        assert_eq!(How::of(&Ok(())), How::CloseNotify);
        let alert = rustls::Error::AlertReceived(AlertDescription::DecodeError);
        let alert = How::of(&Err::<(), _>(io::Error::new(
            io::ErrorKind::InvalidData,
            alert,
        )));
        assert_eq!(alert.name(), "alert:decode_error");
        let bytes = [21, 3, 3, 0, 2, 2, 70];
        assert_eq!(
            plain_alert(&bytes).unwrap().name(),
            "alert:protocol_version"
        );
        assert!(plain_alert(b"HTTP/1.1 400").is_none());
    }
}
