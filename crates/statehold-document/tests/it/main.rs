//! Documents on managers in memory and in folders: what an application sees.

#[cfg(test)]
mod convergence;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod life;
#[cfg(test)]
mod node;
