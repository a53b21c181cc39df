//! The simulation over fixed seeds, and proof that it notices what it should; and a writer of state
//! under `kill -9`.

mod replay;
mod simulation;
mod state;
