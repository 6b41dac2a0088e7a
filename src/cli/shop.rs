//! `palisade shop` (hidden): one sample service of the demo.

use std::net::SocketAddr;

use super::{Exit, block_on};
use crate::{demo::shop, net::parent, render};

/// Arguments of `shop`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which service of the shop.
    name: String,
    /// Where to listen; the bound address is printed on the first line.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// End when standard input closes.
    #[arg(long)]
    end_with_parent: bool,
}

pub(super) fn main(args: &Args) -> Exit {
    let Some(sample) = shop::SHOP.iter().find(|s| s.name == args.name) else {
        render::note(&format!("error: the shop has no service `{}`", args.name));
        return Exit::Invalid;
    };
    block_on(async {
        let served = shop::serve(*sample, args.listen);
        tokio::select! {
            ended = served => match ended {
                Ok(()) => Exit::Ok,
                Err(error) => {
                    render::note(&format!("error: {} cannot be served: {error}", sample.name));
                    Exit::Failed
                }
            },
            () = parent::ended(args.end_with_parent) => Exit::Ok,
            _ = tokio::signal::ctrl_c() => Exit::Ok,
        }
    })
}
