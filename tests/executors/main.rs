//! The examples as tests.

#[allow(dead_code, reason = "the test calls what the program calls")]
mod async_guest;
#[allow(dead_code, reason = "the test calls what the program calls")]
mod async_tokio;

#[test]
fn three_activities_of_a_node_run_under_a_no_std_executor() {
    async_guest::run().unwrap();
}

#[test]
fn nodes_run_under_tokio() {
    async_tokio::run().unwrap();
}
