//! The program as hooks and CI call it.

#[cfg(test)]
mod calls;
