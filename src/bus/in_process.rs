//! The bus of `standalone`.
