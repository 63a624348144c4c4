// Has cargo compile again after a new file in migrations/, as `sqlx migrate build-script` does.
fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
