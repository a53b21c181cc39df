//! Workspaces: keeping a folder of this machine and a repository the same.

pub mod gateway_client;
