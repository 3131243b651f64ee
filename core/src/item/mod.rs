//! Items: typed values and their flat encoding.
