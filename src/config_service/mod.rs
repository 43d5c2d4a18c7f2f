//! config_service
