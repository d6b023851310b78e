//! What models of network controllers have in common: the wires that they are on, and checksums.

mod cable;
pub(crate) mod checksum;
mod loopback;

pub use cable::Cable;
pub use loopback::Loopback;

/// What a network controller is connected to. Frames have no frame check sequence.
pub trait Wire: Send {
    /// Whether somebody is at the other end.
    fn is_up(&self) -> bool;

    /// Takes a frame.
    fn send(&mut self, frame: &[u8]);

    /// Puts the next frame that has come into `frame`, which is empty. Whether there was one.
    fn receive(&mut self, frame: &mut Vec<u8>) -> bool;
}
