-- What the database has beside a view a table: the judged answers, and macros over trees.
-- No parameter may be called as a column of a view it meets: DuckDB would take the one for the other.

create or replace view leaves as
-- Every answer with the verdict that stands: of the newest version of its verifier that gave a reward.
with standing as (
    select verdicts.*
    from verdicts
    where verdicts.reward is not null
    qualify row_number() over (
        partition by verdicts.tree, verdicts.node
        order by try_cast(verdicts.version as bigint) desc, verdicts.version desc, verdicts.stage desc
    ) = 1
)
select
    nodes.task, nodes.tree, nodes.node, nodes.depth, nodes.origin, nodes.finish,
    standing.reward, standing.parsed_answer, standing.verifier, standing.version,
    nodes.suite, nodes.round, nodes.stage, nodes.shard
from nodes
left join standing using (tree, node)
where nodes.finish is not null and nodes.kind = 'step';

create or replace macro path(of_tree, of_node) as table
-- The nodes from the root to a node, by parent.
with recursive
whole as materialized (select nodes.* from nodes where nodes.tree = of_tree),
up(step, above) as (
    select whole.node, whole.parent from whole where whole.node = of_node
    union all
    select whole.node, whole.parent from up join whole on whole.node = up.above
)
select whole.* from whole semi join up on whole.node = up.step
order by whole.node;

create or replace macro subtree(of_tree, of_node) as table
-- A node and all that grew below it.
with recursive
whole as materialized (select nodes.* from nodes where nodes.tree = of_tree),
below(step) as (
    select whole.node from whole where whole.node = of_node
    union all
    select whole.node from below join whole on whole.parent = below.step
)
select whole.* from whole semi join below on whole.node = below.step
order by whole.node;

create or replace macro siblings(of_tree, of_node) as table
-- The other children of a node's parent. None of a root.
with whole as materialized (select nodes.* from nodes where nodes.tree = of_tree),
self as (select whole.parent as above from whole where whole.node = of_node)
select whole.* from whole join self on whole.parent = self.above
where whole.node <> of_node
order by whole.node
;

create or replace macro pass_at(k) as table
-- Unbiased pass@k of plain samples, 1 - C(n - c, k) / C(n, k), the mean over tasks: by suite and round,
-- since a round is one policy. tasks: those with at least k judged samples. too_few: the rest, left out.
-- pass_at: null where no task has k.
with counts as (
    select
        leaves.suite, leaves.round, leaves.tree,
        count(*) as n, count(*) filter (where leaves.reward >= 1) as c
    from leaves
    where leaves.stage = 'rollouts' and leaves.origin = 'sample' and leaves.reward is not null
    group by all
),
chances as (
    select
        counts.suite, counts.round,
        case when k >= 1 and counts.n >= k then
            1 - coalesce(list_product([1 - k / i for i in range(counts.n - counts.c + 1, counts.n + 1)]), 1)
        end as chance
    from counts
)
select
    chances.suite, chances.round, k as k,
    count(chances.chance) as tasks,
    count(*) - count(chances.chance) as too_few,
    avg(chances.chance) as pass_at
from chances
group by chances.suite, chances.round
order by chances.suite, chances.round;
