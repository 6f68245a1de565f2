//! Facts of time, text and bytes that everything else may use.
