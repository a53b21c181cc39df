//! Documents that several devices edit at once, offline too: text, lists and maps whose edits merge
//! instead of replacing each other.
//!
//! A document is kept in states of [`statehold_state`]: one that says that it exists, and one for
//! each saved edit. So it travels by the same events, transports and snapshots as every other
//! state, an edit is durable when [`Document::edit`] returns and writes in proportion to itself,
//! and nodes that know the same events show the same document. What the edits come to is merged by
//! [Loro](https://loro.dev); the rest of the project does not build it.
//!
//! Begin with [`Documents`].
//!
//! ```
//! use statehold_document::Documents;
//! use statehold_state::Manager;
//!
//! let (desk, phone) = (Manager::in_memory()?, Manager::in_memory()?);
//! let plan = Documents::open(&desk, "notes")?.create("plan")?;
//! plan.edit(|editor| editor.text("body")?.insert(0, "Buy milk."))?;
//!
//! // The phone gets it, and both edit the same sentence without seeing each other.
//! phone.reconcile(&desk.answer(&phone.head()?)?)?;
//! let same = Documents::open(&phone, "notes")?.get("plan")?.ok_or("gone")?;
//! same.edit(|editor| editor.text("body")?.insert(4, "oat "))?;
//! plan.edit(|editor| editor.text("body")?.insert(8, " and bread"))?;
//!
//! desk.reconcile(&phone.answer(&desk.head()?)?)?;
//! phone.reconcile(&desk.answer(&phone.head()?)?)?;
//! assert_eq!(plan.text("body")?, "Buy oat milk and bread.");
//! assert_eq!(same.text("body")?, plan.text("body")?);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod changes;
mod document;
mod documents;
mod editor;
mod error;
mod merged;
mod version;

pub use changes::{Change, Changes};
pub use document::{DOCUMENT_BYTES_MAX, Document, RefusedUpdate, Span, Update};
pub use documents::Documents;
pub use editor::{Editor, List, Map, Text};
pub use error::{Error, Result};
pub use version::Version;
