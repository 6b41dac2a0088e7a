//! What comes back to a folder that nobody writes.

use super::*;

impl Scene {
    fn moved(&self) -> u64 {
        self.log().whereabouts().unwrap().moved
    }
}

/// A folder gets nothing back of what no record says went, and all else; and nothing where not
/// all of it fits.
#[test]
fn a_folder_gets_back_only_what_was_signed_and_fits() {
    let scene = Scene::new();
    let moved = scene.run("30 days").segments;
    let (dir, archive) = (scene.stage.folder(), scene.stage.archive().unwrap());
    scene.log().close();
    let stub = Stub::read(&dir, 0).unwrap();
    let save = |change: &dyn Fn(&mut palisade_mesh::wire::audit::Moved)| {
        let mut moved = stub.moved.clone();
        change(&mut moved);
        Stub::new(moved).unwrap().save(&dir).unwrap();
    };
    // Where the log cannot be asked, what does not fit is told.
    let (tiles, aside) = (dir.join("tile"), dir.join("tile-aside"));
    fs::rename(&tiles, &aside).unwrap();
    save(&|moved| moved.length = 1 << 60);
    let refused = restore_all(&dir, &archive).unwrap_err();
    assert_eq!(why(&refused), Some(Why::NoRoom));
    assert!(refused.to_string().contains("bytes left"), "{refused}");
    assert_eq!(scene.moved(), moved);
    fs::remove_dir_all(&tiles).ok();
    fs::rename(&aside, &tiles).unwrap();
    save(&|moved| moved.latest_us += 1);
    let restored = restore_all(&dir, &archive).unwrap();
    assert!(
        matches!(&restored.refused[..], [LogError::Tampered(d)] if d.leaf == 0),
        "{restored:?}"
    );
    assert_eq!(restored.bytes.len() as u64, moved - 1);
    assert_eq!(scene.moved(), 1);
    stub.save(&dir).unwrap();
    assert_eq!(restore_all(&dir, &archive).unwrap().bytes.len(), 1);
    assert!(
        scene.cached().is_empty(),
        "what comes back has its room once"
    );
}

/// Where a tile at the edge is not what it was, a start needs all that went, and gets it.
#[test]
fn a_wrong_tile_keeps_nothing_from_coming() {
    let mut scene = Scene::new();
    let moved = scene.run("30 days").segments;
    let (dir, archive) = (scene.stage.folder(), scene.stage.archive().unwrap());
    scene.log().close();
    let size = scene.log().checkpoint().size;
    let edge = TilePath::at(0, size / TILE_WIDTH as u64, size).unwrap();
    let edge = dir.join(edge.relative());
    let mut bytes = fs::read(&edge).unwrap();
    bytes[3] ^= 1;
    fs::write(&edge, bytes).unwrap();
    let options = LogOptions {
        archive: Some(archive.clone()),
        ..crate::testing::options()
    };
    let refused = Log::open(&dir, options, scene.stage.clock.clone()).err();
    assert_eq!(refused.map(|e| e.diagnostic().code.0), Some(7587));
    let restored = restore_all(&dir, &archive).unwrap();
    assert_eq!(restored.bytes.len() as u64, moved, "{restored:?}");
    scene.stage.restart();
    scene.whole();
}

/// What stays of one segment being damaged, or its object lost, the others come.
#[test]
fn what_cannot_come_keeps_no_other_from_coming() {
    let mut scene = Scene::new();
    let moved = scene.run("30 days").segments;
    let (dir, archive) = (scene.stage.folder(), scene.stage.archive().unwrap());
    let second = scene.log().moved(&mut Vec::new()).unwrap()[1].segment.start;
    scene.log().close();
    let path = Stub::path(&dir, 0);
    let sound = fs::read(&path).unwrap();
    fs::write(&path, &sound[..sound.len() / 2]).unwrap();
    let object = scene.objects()[1].clone();
    let bytes = fs::read(&object).unwrap();
    fs::remove_file(&object).unwrap();
    let restored = restore_all(&dir, &archive).unwrap();
    assert_eq!(restored.bytes.len() as u64, moved - 2, "{restored:?}");
    let refused = &restored.refused;
    assert_eq!(refused.len(), 2, "{restored:?}");
    assert_eq!(why(&refused[1]), Some(Why::Missing));
    assert!(scene.log().is_away(0) && scene.log().is_away(second));
    fs::write(&path, sound).unwrap();
    fs::write(&object, bytes).unwrap();
    let restored = restore_all(&dir, &archive).unwrap();
    assert_eq!((restored.bytes.len(), restored.refused.len()), (2, 0));
    scene.stage.restart();
    scene.whole();
}
