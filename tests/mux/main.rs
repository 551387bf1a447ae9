//! Members that share one line for all their streams: the machine at its ends, and the stand-in on
//! the host.
#![allow(missing_docs)]

mod guest;
mod line;
mod machine;
mod proxy;
