//! The simulation over fixed seeds, and proof that it notices what it should.

mod simulation;
