//! Members that share one line for all their streams: the machine at its ends, the platform on it,
//! and the stand-in on the host.
#![allow(missing_docs)]

mod guest;
mod line;
mod machine;
mod pal;
mod proxy;
