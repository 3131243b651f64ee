//! The client in one page: connect to a cluster, create a table, write, read, query, scan, delete.
//!
//! Start nodes with `cargo run --release -- dev`, then run
//! `cargo run --release -p forebay-net --example quickstart [HOST:PORT,HOST:PORT,HOST:PORT]`.

use std::time::Duration;

use forebay_core::expression::{
    Comparison, ConditionExpression, Operand, Path, SetValue, UpdateExpression,
};
use forebay_core::item::{Item, Value};
use forebay_core::message::ErrorCode;
use forebay_core::table::{KeySchema, KeyType};
use forebay_net::client::{
    BatchWrite, Client, ClientConfig, ClientError, SortKey, Table, UpdateReturn,
};

/// Any nodes of the cluster; one that answers is enough to begin with.
const NODES: [&str; 3] = ["127.0.0.1:4700", "127.0.0.1:4701", "127.0.0.1:4702"];

#[tokio::main]
async fn main() {
    let nodes = std::env::args().nth(1).unwrap_or_else(|| NODES.join(","));
    if let Err(error) = run(&nodes).await {
        eprintln!("quickstart: {error}");
        std::process::exit(1);
    }
}

async fn run(nodes: &str) -> Result<(), ClientError> {
    let client = Client::connect(nodes, ClientConfig::default()).await?;
    println!("connected to {nodes}");

    // Items of one user are stored together, in the order of their days.
    let table = create(&client, "quickstart-visits").await?;

    // Put stores an item whatever was there before.
    let key = Item::new().with("user", "ada").with("day", 1);
    let visit = key.clone().with("pages", 3).with("city", "Berlin");
    table.put(&visit).send().await?;
    println!("put              {}", show(&visit));

    // Leaders change and nodes die; the client looks for the next one until the time is up. A write
    // that may have reached a node that died is never repeated behind your back: it is unknown, and
    // you decide. Nobody else writes this item, so storing it again is harmless.
    match table.put(&visit).timeout(Duration::from_secs(2)).send().await {
        Err(error) if error.outcome_unknown() => {
            println!("put again        because {error}");
            table.put(&visit).send().await?;
        }
        other => drop(other?),
    }

    // A condition is evaluated where the item lives, together with the write.
    let first = ConditionExpression::not_exists("user");
    match table.put(&visit).condition(first).return_old_on_failure().send().await {
        Err(ClientError::Refused { code: ErrorCode::ConditionFailed, item, .. }) => {
            println!("conditional put  refused, there is {}", show(&item.unwrap_or_default()));
        }
        Ok(_) => println!("conditional put  stored"),
        Err(error) => return Err(error),
    }

    // Update changes attributes in place, here one that may not be there yet.
    let more = UpdateExpression::new()
        .set("pages", SetValue::sum(Path::attribute("pages"), Value::from(2)))
        .add("clicks", 1);
    let updated = table.update(&key, more).returning(UpdateReturn::AllNew).send().await?;
    println!("update           {}", show(&updated.unwrap_or_default()));

    // Get reads by key; a projection returns only what is needed.
    let pages = table.get(&key).projection(["pages"]).send().await?;
    println!("get              {}", show(&pages.unwrap_or_default()));

    // A batch of any size is cut and sent side by side; each write has its own result.
    let days = (2..=40)
        .map(|day| Item::new().with("user", "ada").with("day", day).with("pages", day % 7))
        .map(BatchWrite::Put);
    let results = table.batch_write(&days.collect::<Vec<_>>()).await?;
    let written = results.iter().filter(|result| result.is_ok()).count();
    println!("batch write      {written} of {}", results.len());

    // Query reads a range of one partition key's items in order, page by page underneath.
    let busy = ConditionExpression::compare(
        Operand::path("pages"),
        Comparison::GreaterOrEqual,
        Operand::value(5),
    );
    let mut found = table
        .query("ada")
        .sort_key(SortKey::between(10, 30))
        .descending()
        .filter(busy)
        .projection(["day", "pages"])
        .items();
    while let Some(item) = found.next().await? {
        println!("query            {}", show(&item));
    }

    // Scan reads everything; segments may be read in parallel.
    let (mut left, mut right) =
        (table.scan().segment(0, 2).items(), table.scan().segment(1, 2).items());
    let (left, right) = tokio::try_join!(count(&mut left), count(&mut right))?;
    println!("scan             {left} + {right} items");

    // Delete removes one item; deleting what is not there is no error.
    let old = table.delete(&key).return_old().send().await?;
    println!("delete           {}", show(&old.unwrap_or_default()));

    client.delete_table(table.name()).await?;
    println!("deleted the table");
    Ok(())
}

/// Creates the table, or uses the one that an earlier run has left.
async fn create(client: &Client, name: &str) -> Result<Table, ClientError> {
    let schema = KeySchema::partition_only("user", KeyType::S).with_sort("day", KeyType::N);
    match client.create_table(name, schema).send().await {
        Ok(table) => {
            println!("created table    {name}");
            Ok(table)
        }
        Err(error) if error.code() == Some(ErrorCode::TableExists) => client.table(name).await,
        Err(error) => Err(error),
    }
}

async fn count(items: &mut forebay_net::client::Items<'_>) -> Result<u64, ClientError> {
    let mut count = 0;
    while items.next().await?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// An item's texts and numbers in one line.
fn show(item: &Item) -> String {
    let attributes = item.0.iter().map(|(name, value)| match value {
        Value::S(text) => format!("{name}={text:?}"),
        Value::N(number) => format!("{name}={number}"),
        other => format!("{name}={}", other.type_name()),
    });
    format!("{{ {} }}", attributes.collect::<Vec<_>>().join(", "))
}
