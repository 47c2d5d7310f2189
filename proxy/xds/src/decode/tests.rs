//! Decoding, by example.
