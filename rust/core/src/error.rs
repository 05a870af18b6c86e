//! The one error type of the crate.

/// What can go wrong. Every message is one line and names the argument, tensor or layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument has a wrong value or shape.
    #[error("{0}")]
    Argument(String),
    /// Bytes or arrays that claim to be a packed weight or a file, but break the format's rules.
    #[error("{0}")]
    Format(String),
    /// An operator, layer or target that this build or this machine does not support.
    #[error("{0}")]
    Unsupported(String),
    /// The operating system refused to read or write.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// `Result` with the crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Builds an [`Error::Argument`] from a format string.
#[macro_export]
macro_rules! argument {
    ($($arg:tt)*) => { $crate::error::Error::Argument(format!($($arg)*)) };
}

/// Builds an [`Error::Format`] from a format string.
#[macro_export]
macro_rules! malformed {
    ($($arg:tt)*) => { $crate::error::Error::Format(format!($($arg)*)) };
}
