//! Drivers that die under a real core: the core, the NVMe driver, the NVMe model and the clients
//! are processes of their own, and every byte is checked.

mod clients;
mod core_death;
mod fall_back;
mod ground;
mod orders;
mod poison;
mod random;
mod servers;
mod shares;
mod signals;
mod steps;
mod unprivileged;
mod user;
