//! Tables: names, key schemas, metadata.
