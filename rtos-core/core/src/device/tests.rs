//! Workers with in-process servers, and driver processes of all kinds.

mod session;
