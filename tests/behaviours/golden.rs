//! Lakes and logs of earlier releases, kept as they were written: every version opens them and goes on with them.

use std::path::Path;

use harness::process::Workplace;
use serde_json::json;

use crate::{PROGRAM, readers};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy(&path, &target);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&path).unwrap(), &target).unwrap();
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn the_lake_of_the_first_release_opens_adds_up_and_goes_on() {
    let place = Workplace::new(PROGRAM);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/release-1");
    for folder in ["lake", "stream"] {
        copy(&golden.join(folder), &place.path(folder));
    }
    let report = place.ok(&["verify", "--full", "--lake", "lake"]);
    assert!(report.contains("5 events read = 4 kept + 0 filtered + 1 dead letters"), "{report}");
    let sql = "SELECT n, at, name, amount, ok, tags, address, \"Order_Id\", year, event_year, later FROM t ORDER BY n";
    let mut rows = vec![
        json!({"n": 1, "at": "2026-11-19T23:59:59.999999Z", "name": "one", "amount": 1.5, "ok": true,
               "tags": ["a", "b"], "address": {"city": "Ulm", "zip": 89_073}, "Order_Id": null, "year": null,
               "event_year": 2026, "later": null}),
        json!({"n": 2, "at": "2026-11-20T00:00:00Z", "name": "zwölf \"quoted\"", "amount": -0.25, "ok": false,
               "tags": [], "address": {"city": null, "zip": null}, "Order_Id": null, "year": null,
               "event_year": 2026, "later": null}),
        json!({"n": 3, "at": "2026-11-20T02:00:00Z", "name": "three", "amount": null, "ok": null, "tags": null,
               "address": null, "Order_Id": null, "year": null, "event_year": 2026, "later": [{"k": 1}]}),
        json!({"n": 9_007_199_254_740_993_i64, "at": "2025-02-28T00:00:00Z", "name": "", "amount": null, "ok": null,
               "tags": null, "address": null, "Order_Id": "x-1", "year": 7, "event_year": 2025, "later": null}),
    ];
    assert_eq!(place.rows(sql, "lake"), rows);
    assert_eq!(readers::ask("delta", &place.path("lake/t"), "count(*), sum(year)::BIGINT"), [4, 7]);

    place.write("new.ndjson", "{\"n\":4,\"at\":\"2026-11-21\",\"later\":[{\"k\":2}]}\n");
    place.ok(&["produce", "new.ndjson", "--to", "log:stream"]);
    let consume = ["consume", "--from", "log:stream", "--lake", "lake", "--table", "t", "--time-field", "at"];
    place.ok(&[&consume[..], &["--until-caught-up"]].concat());
    rows.insert(
        3,
        json!({"n": 4, "at": "2026-11-21T00:00:00Z", "name": null, "amount": null, "ok": null, "tags": null,
               "address": null, "Order_Id": null, "year": null, "event_year": 2026, "later": [{"k": 2}]}),
    );
    assert_eq!(place.rows(sql, "lake"), rows);
    place.ok(&["verify", "--full", "--lake", "lake"]);
}
