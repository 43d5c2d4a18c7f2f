//! A ServerToAgent that was received.

use super::protobuf::{Fields, read_varint};

/// Bits of `ServerToAgent.flags`.
pub const REPORT_FULL_STATE: u64 = 1;
pub const REPORT_AVAILABLE_COMPONENTS: u64 = 2;

/// Bits of `ServerToAgent.capabilities`.
pub mod capability {
    pub const ACCEPTS_STATUS: u64 = 0x01;
    pub const OFFERS_REMOTE_CONFIG: u64 = 0x02;
    pub const OFFERS_PACKAGES: u64 = 0x08;
    pub const OFFERS_CONNECTION_SETTINGS: u64 = 0x20;
    pub const ACCEPTS_CONNECTION_SETTINGS_REQUEST: u64 = 0x40;
    /// Every bit that v0.20 defines.
    pub const ALL: u64 = 0x7f;
}

pub const BAD_REQUEST: u64 = 1;

#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub uid: Vec<u8>,
    pub error: Option<Error>,
    pub remote_config: Option<RemoteConfig>,
    pub connection_settings: Option<Fields>,
    pub packages: Option<Fields>,
    pub flags: u64,
    pub capabilities: u64,
    pub new_uid: Option<Vec<u8>>,
    pub command: Option<Fields>,
    pub custom_capabilities: Vec<String>,
    pub custom_message: Option<Fields>,
    /// The numbers of the fields that are set.
    pub numbers: Vec<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Error {
    pub kind: u64,
    pub text: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteConfig {
    pub hash: Vec<u8>,
    /// In the order of their names.
    pub files: Vec<File>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct File {
    pub name: String,
    pub body: Vec<u8>,
    pub content_type: String,
    pub role: String,
}

impl Reply {
    /// Of an HTTP body, or of a WebSocket message without its header.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        Self::from_fields(&Fields::read(body)?).map_err(|error| format!("not a ServerToAgent: {error}"))
    }

    /// Of a WebSocket message, which begins with the header.
    pub fn read_framed(message: &[u8]) -> Result<Self, String> {
        let mut data = message;
        let header = read_varint(&mut data).map_err(|_| "a message without a header".to_owned())?;
        if header != 0 {
            return Err(format!("the message's header is {header}, not 0"));
        }
        Self::read(data)
    }

    fn from_fields(fields: &Fields) -> Result<Self, String> {
        let error = fields.message(2)?;
        let error = error.map(|it| Ok::<_, String>(Error { kind: it.uint(1)?, text: it.text(2)? })).transpose()?;
        let identification = fields.message(8)?;
        let new_uid = identification.map(|it| it.bytes(1).map(|uid| uid.unwrap_or_default().to_vec())).transpose()?;
        let custom = fields.message(10)?.unwrap_or_default();
        let names = custom.all(1)?.into_iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        Ok(Self {
            uid: fields.bytes(1)?.unwrap_or_default().to_vec(),
            error,
            remote_config: fields.message(3)?.map(|it| RemoteConfig::from_fields(&it)).transpose()?,
            connection_settings: fields.message(4)?,
            packages: fields.message(5)?,
            flags: fields.uint(6)?,
            capabilities: fields.uint(7)?,
            new_uid,
            command: fields.message(9)?,
            custom_capabilities: names,
            custom_message: fields.message(11)?,
            numbers: fields.numbers(),
        })
    }

    pub fn asks_full_state(&self) -> bool {
        self.flags & REPORT_FULL_STATE != 0
    }

    pub fn asks_components(&self) -> bool {
        self.flags & REPORT_AVAILABLE_COMPONENTS != 0
    }

    pub fn is_bad_request(&self) -> bool {
        self.error.as_ref().is_some_and(|error| error.kind == BAD_REQUEST)
    }

    /// What it says, for people.
    pub fn summary(&self) -> String {
        match &self.error {
            Some(error) => format!("error {} {:?}", error.kind, error.text),
            None => format!("fields {:?}, flags {}, capabilities {:#x}", self.numbers, self.flags, self.capabilities),
        }
    }
}

impl RemoteConfig {
    fn from_fields(fields: &Fields) -> Result<Self, String> {
        let mut files = Vec::new();
        for (name, file) in fields.message(1)?.unwrap_or_default().map(1)? {
            let body = file.bytes(1)?.unwrap_or_default().to_vec();
            files.push(File { name, body, content_type: file.text(2)?, role: file.text(3)? });
        }
        files.sort();
        Ok(Self { hash: fields.bytes(2)?.unwrap_or_default().to_vec(), files })
    }
}
