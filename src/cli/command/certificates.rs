//! Certificates of agents: list, approve, deny.

use super::PAGE_SIZE;
use crate::{
    cli::{
        args::CertificateState,
        connection::Client,
        error::Result,
        output::{self, Format},
        view::certificate::Certificate,
    },
    proto::admin::{self, ApproveCertificateRequest, DenyCertificateRequest, ListCertificatesRequest},
};

pub async fn list(client: &Client, agent: String, state: Option<CertificateState>, format: Format) -> Result<()> {
    let state = state.map_or(admin::CertificateState::Unspecified, |state| match state {
        CertificateState::Pending => admin::CertificateState::Pending,
        CertificateState::Denied => admin::CertificateState::Denied,
        CertificateState::Issued => admin::CertificateState::Issued,
        CertificateState::Superseded => admin::CertificateState::Superseded,
        CertificateState::Revoked => admin::CertificateState::Revoked,
    });
    let mut certificates: Vec<Certificate> = Vec::new();
    let mut request = ListCertificatesRequest {
        page_size: PAGE_SIZE,
        instance_uid: agent,
        state: state.into(),
        ..Default::default()
    };
    loop {
        let page = client.certificates().list_certificates(client.request(request.clone())).await?.into_inner();
        certificates.extend(page.certificates.into_iter().map(Certificate::from));
        if page.next_page_token.is_empty() {
            return output::list(format, &certificates);
        }
        request.page_token = page.next_page_token;
    }
}

pub async fn approve(client: &Client, id: String) -> Result<()> {
    let request = client.request(ApproveCertificateRequest { id });
    let approved = client.certificates().approve_certificate(request).await?.into_inner();
    output::write(&format!("certificate/{} approved for agent {}\n", approved.id, approved.instance_uid))
}

pub async fn deny(client: &Client, id: String) -> Result<()> {
    let denied =
        client.certificates().deny_certificate(client.request(DenyCertificateRequest { id })).await?.into_inner();
    let what = if denied.serial.is_empty() { "denied to" } else { "of" };
    let revoked = if denied.serial.is_empty() { "" } else { " revoked" };
    output::write(&format!("certificate/{} {what} agent {}{revoked}\n", denied.id, denied.instance_uid))
}
