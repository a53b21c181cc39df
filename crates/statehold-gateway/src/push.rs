//! `POST /_push`: packs and the draft that names them in one request. It means what its parts mean,
//! `PUT /v1/packs/{id}` and `POST /v1/log`, and may be sent again like them.

use axum::body::Body;
use axum::extract::State;
use futures::future::try_join_all;
use statehold_core::record::NewPack;
use statehold_repository::Remote as _;
use statehold_repository::content::Pack;
use statehold_repository::format::record::StoredDraft;
use statehold_repository::wire::bodies::Role;
use statehold_repository::wire::problem::Problem;
use statehold_repository::wire::{PUSH_BYTES_MAX, push as wire};

use crate::auth::Access;
use crate::gateway::Gateway;
use crate::guard::{Taken, take_body};
use crate::handlers::{Answer, Frames, admit, append_admitted, from_outside};

pub(crate) async fn push(
    access: Access,
    State(gateway): State<Gateway>,
    body: Body,
) -> Answer<Frames> {
    let repository = access.repository(Role::Push).await?;
    let taken = take_body(&gateway, body, PUSH_BYTES_MAX).await?;
    let Taken {
        bytes,
        memory: _memory,
    } = taken;
    let (packs, draft) = wire::read("the push", bytes).map_err(from_outside)?;
    let draft = admit(&access, &gateway, &repository, draft).await?;
    check_named(&packs, &draft)?;
    let put = |pack: Pack| repository.put_pack(pack.id, pack.bytes);
    let all = try_join_all(packs.into_iter().map(put)).await;
    all.map_err(from_outside)?;
    // Every pack is durable, so the record may name them.
    append_admitted(&access, &repository, &draft).await
}

/// A pack that the draft doesn't name would lie in the store for nothing.
fn check_named(packs: &[Pack], draft: &StoredDraft) -> Answer<()> {
    let named = &draft.draft.head.packs;
    for pack in packs.iter().map(Pack::named) {
        if !named.contains(&pack) {
            let NewPack { id, bytes } = pack;
            let reason = format!("the draft names no pack {id} of {bytes} bytes");
            return Err(Problem::refused(reason).into());
        }
    }
    Ok(())
}
