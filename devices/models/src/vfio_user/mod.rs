//! Models served to other processes over vfio-user.
//!
//! | | what it is |
//! |---|---|
//! | [`request`] | what a client asks, checked |
//! | [`Session`] | one client: its requests, answered by a model |
//! | [`Server`] | the socket, and the loop that drives the model |
//!
//! The client is a peer, not a friend: each message is a claim that is checked, and whatever a
//! client sends, it gets an error reply or is hung up on. It never takes the server down.

pub mod request;
mod server;
mod session;

pub use server::{ServeError, Server};
pub use session::{Session, SessionEnd};
