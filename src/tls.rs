//! Why a TLS handshake with Postgres or Redis came to nothing.

use std::io;

use rustls::{AlertDescription as Alert, Error};

/// What is wrong if one side did not believe the other, or they have no version or cipher in common: something that trying
/// again does not mend. `None` for all else, such as a connection that broke.
pub fn refusal(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    match error {
        Error::InvalidCertificate(_) => Some(format!("the server's certificate is refused: {error}")),
        Error::PeerIncompatible(_) => Some(format!("the server speaks another TLS: {error}")),
        Error::AlertReceived(
            Alert::HandshakeFailure
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::ProtocolVersion
            | Alert::InsufficientSecurity
            | Alert::UnrecognisedName
            | Alert::CertificateRequired,
        ) => Some(format!("the server refuses this client: {error}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rustls::CertificateError;

    use super::*;

    #[test]
    fn what_trying_again_does_not_mend_is_told_from_the_rest() {
        let of = |error: Error| refusal(&io::Error::new(io::ErrorKind::InvalidData, error));
        let unknown = of(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert!(unknown.is_some_and(|text| text.contains("the server's certificate is refused: ")));
        assert!(of(Error::AlertReceived(Alert::CertificateRequired)).is_some());
        for passing in [Error::AlertReceived(Alert::InternalError), Error::HandshakeNotComplete] {
            assert_eq!(of(passing), None);
        }
        assert_eq!(refusal(&io::ErrorKind::ConnectionReset.into()), None);
    }
}
