mod client;
mod deaths;
mod device;
mod hostile;
mod sharing;
mod world;
