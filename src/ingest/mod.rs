//! Doors: how readings come in.

pub mod replay;
