//! Workspaces made, opened and refused, in real folders.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

#[derive(Debug)]
struct Counting(std::sync::atomic::AtomicU8);

impl Entropy for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    }
}

fn init(root: &Path, preset: Preset) -> Result<Workspace, WorkspaceError> {
    let options = InitOptions {
        preset,
        machine_name: "laptop".into(),
        ..InitOptions::default()
    };
    Workspace::init(root, options, &Counting(1.into()))
}

#[test]
fn a_new_workspace_is_found_from_below_with_the_same_settings() {
    let folder = tempfile::tempdir().unwrap();
    let mut made = init(folder.path(), Preset::ClaudeCode).unwrap();
    let below = folder.path().join("a/b");
    fs::create_dir_all(&below).unwrap();
    let found = Workspace::find(&below).unwrap();
    assert_eq!(found.settings(), made.settings());
    assert_eq!(found.root(), fs::canonicalize(folder.path()).unwrap());

    let link = Link {
        url: "https://gateway.example".into(),
        repository: "memory".into(),
        repository_id: None,
        key_id: Some(KeyId::from_bytes([3; 16])),
    };
    made.change_settings(|settings| settings.link = Some(link.clone()))
        .unwrap();
    let again = Workspace::open(folder.path()).unwrap();
    assert_eq!(again.settings().link, Some(link));

    let own = folder.path().join(".statehold");
    assert_eq!(fs::read_to_string(own.join(".gitignore")).unwrap(), "*\n");
    assert_eq!(
        fs::metadata(&own).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let ignore = fs::read_to_string(folder.path().join(IGNORE_FILE)).unwrap();
    assert!(ignore.contains("/statsig/"));
    assert_eq!(fs::read_dir(made.staging()).unwrap().count(), 0);
}

#[test]
fn no_workspace_is_made_twice_or_inside_another() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(
        Workspace::find(folder.path()),
        Err(WorkspaceError::NotFound { .. })
    ));
    fs::write(folder.path().join(IGNORE_FILE), "mine").unwrap();
    init(folder.path(), Preset::Plain).unwrap();
    let ignore = fs::read_to_string(folder.path().join(IGNORE_FILE)).unwrap();
    assert_eq!(ignore, "mine");
    let again = init(folder.path(), Preset::Plain);
    assert!(matches!(again, Err(WorkspaceError::AlreadyThere { .. })));
    let inner = folder.path().join("a/b");
    fs::create_dir_all(&inner).unwrap();
    let inside = init(&inner, Preset::Plain);
    assert!(matches!(inside, Err(WorkspaceError::InsideAnother { .. })));
    assert!(!inner.join(".statehold").exists());
}

#[test]
fn settings_of_a_newer_program_or_none_at_all_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    init(folder.path(), Preset::Plain).unwrap();
    let path = folder.path().join(".statehold/settings.json");
    fs::write(&path, r#"{"version": 2, "all": "else"}"#).unwrap();
    let newer = Workspace::open(folder.path());
    assert!(matches!(
        newer,
        Err(WorkspaceError::TooNew { found: 2, .. })
    ));
    for broken in ["", "[]", "{", r#"{"version": 1}"#] {
        fs::write(&path, broken).unwrap();
        let invalid = Workspace::open(folder.path());
        assert!(matches!(invalid, Err(WorkspaceError::Settings { .. })));
    }
}

#[test]
fn the_rules_file_goes_before_the_preset_and_a_broken_one_is_an_error() {
    for preset in [Preset::Agent, Preset::Codex] {
        let home = tempfile::tempdir().unwrap();
        let workspace = init(home.path(), preset).unwrap();
        let folder = workspace.folder().unwrap();
        workspace.make_log_folder(&folder).unwrap();
        assert!(home.path().join(preset.layout().logs).is_dir());

        let denied = |path: &str| {
            let rules = workspace.rules(&folder).unwrap();
            let path = RepoPath::parse(path).unwrap();
            rules.verdict(&path) != statehold_core::rules::Verdict::Allowed
        };
        assert!(denied("a/.env") && !denied("a/b"));
        let path = workspace.rules_path();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, r#"{"SYNC_DENY": ["a/b"]}"#).unwrap();
        assert!(denied("a/b") && !denied("a/.env"));
        fs::write(&path, "{").unwrap();
        let broken = workspace.rules(&folder);
        assert!(matches!(broken, Err(WorkspaceError::Rules { .. })));
    }
}

#[test]
fn logs_are_not_led_elsewhere_by_a_link() {
    let home = tempfile::tempdir().unwrap();
    let (root, outside) = (home.path().join("root"), home.path().join("outside"));
    fs::create_dir(&root).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(&outside, root.join("state")).unwrap();
    let workspace = init(&root, Preset::Agent).unwrap();
    let folder = workspace.folder().unwrap();
    assert!(workspace.make_log_folder(&folder).is_err());
    assert!(workspace.rules(&folder).is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}
