//! Every configuration that the documentation or conf/ shows can be loaded as it stands.

use crate::harness::{
    Authority,
    edge::rempart,
    file, files,
    tools::{promtool, said, succeed, venv},
};
use ring::digest::{SHA256, digest};
use std::{fs, path::Path, process::Command};
use tempfile::TempDir;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// A copy of conf/ with the files beside it that a deployment brings: keys, tokens, certificates.
fn deployment() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&file("conf"), folder.path());
    let authority = Authority::new();
    for name in ["tls", "secrets", "logs"] {
        fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    let tls = folder.path().join("tls");
    authority
        .pair(&["app.example.com", "www.example.com", "example.com"])
        .write(&tls, "app");
    authority.pair(&["api.example.com"]).write(&tls, "api");
    authority.pair(&["edge.internal"]).write(&tls, "edge");
    fs::write(tls.join("ca.pem"), authority.pem()).unwrap();
    let secrets = folder.path().join("secrets");
    fs::write(
        secrets.join("admin.token"),
        "0123456789abcdef0123456789abcdef",
    )
    .unwrap();
    fs::write(
        secrets.join("challenge.secret"),
        "0123456789abcdef0123456789abcdef",
    )
    .unwrap();
    let hash = digest(&SHA256, b"a key");
    let hex: Vec<String> = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let keys = format!(
        "- {{ user: partner, hash: \"sha256:{}\", roles: [partner] }}\n",
        hex.concat()
    );
    fs::write(secrets.join("api-keys.yaml"), keys).unwrap();
    let jwks = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"1","use":"sig","alg":"ES256",
        "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;
    fs::write(secrets.join("jwks.json"), jwks).unwrap();
    folder
}

#[track_caller]
fn loads(path: &Path) {
    let output = rempart(&["check", &path.display().to_string()]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn every_example_loads() {
    let folder = deployment();
    let mut seen = Vec::new();
    for path in files(folder.path(), "yaml") {
        let text = fs::read_to_string(&path).unwrap();
        if text.contains("\nlisteners:") {
            loads(&path);
            seen.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    for name in ["small-site.yaml", "api.yaml", "kubernetes-ingress.yaml"] {
        assert!(seen.iter().any(|s| s == name), "{name} in {seen:?}");
    }
}

#[test]
fn every_whole_configuration_of_the_documentation_loads() {
    let mut count = 0;
    let mut pages = files(&file("docs"), "md");
    pages.push(file("README.md"));
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for (index, block) in text.split("```yaml\n").skip(1).enumerate() {
            let block = block.split("```").next().unwrap();
            if !block.lines().any(|line| line == "listeners:") {
                continue;
            }
            let folder = deployment();
            let name = format!(
                "{}-{index}.yaml",
                page.file_stem().unwrap().to_string_lossy()
            );
            let path = folder.path().join(name);
            fs::write(&path, block).unwrap();
            loads(&path);
            count += 1;
        }
    }
    assert!(count >= 1, "the documentation shows no whole configuration");
}

#[test]
fn the_manifests_are_what_kubernetes_takes() {
    let manifests = files(&file("conf/kubernetes"), "yaml");
    assert!(manifests.len() >= 4, "{manifests:?}");
    succeed(
        Command::new(venv("kubernetes-validate"))
            .args(["--strict", "--quiet"])
            .args(&manifests),
    );
}

#[test]
fn the_configuration_in_the_config_map_loads() {
    let text = fs::read_to_string(file("conf/kubernetes/configmap.yaml")).unwrap();
    let (_, yaml) = text
        .split_once("rempart.yaml: |\n")
        .expect("the configuration");
    let lines: Vec<&str> = yaml
        .lines()
        .map_while(|line| {
            let rest = line.strip_prefix("    ");
            rest.or((line.trim().is_empty()).then_some(""))
        })
        .collect();
    let yaml = lines.join("\n");
    let folder = deployment();
    // The same as the example beside it, but for where the files are mounted.
    let yaml = yaml
        .replace("/etc/rempart/tls/", "tls/")
        .replace("/etc/rempart/secrets/", "secrets/");
    let path = folder.path().join("rempart.yaml");
    fs::write(&path, yaml).unwrap();
    loads(&path);
}

#[test]
fn what_the_containers_read_is_sound() {
    let folder = deployment();
    let keys = folder.path().join("keys");
    fs::create_dir(&keys).unwrap();
    Authority::new().pair(&["localhost"]).write(&keys, "app");
    for name in ["admin.token", "challenge.secret"] {
        fs::write(keys.join(name), "0123456789abcdef0123456789abcdef").unwrap();
    }
    let path = folder.path().join("docker.yaml");
    fs::copy(file("docker/rempart.yaml"), &path).unwrap();
    loads(&path);
    // The rule file stands at its place in the container only, so the syntax alone.
    succeed(promtool(&["check", "config", "--syntax-only"]).arg(file("docker/prometheus.yaml")));
}
