-- What the database has beside a view a table: the answers that are judged, and macros over one tree.
-- The lines after a name are what is said of it in the database.
-- No parameter may be called as a column of a view it meets: DuckDB would take the one for the other.
-- What names a task or tree by a literal or a `?` reads that task's few files. It can't take a column of
-- another table: DuckDB must know the files before it reads a row.

create or replace macro task_of(of_tree) as
-- The task of a tree, which is called task@round.
regexp_replace(of_tree, '@[^@]*$', '');

create or replace view judged as
-- The verdict that stands on every judged answer: of the newest version of its verifier that gave a reward.
with
-- A stage that grows nodes judges each of its own once, so only what was judged again must be compared.
own as not materialized (
    select verdicts.* from verdicts
    where verdicts.reward is not null and list_contains(growing_stages(), verdicts.stage)
),
again as not materialized (
    select verdicts.* from verdicts
    where verdicts.reward is not null and not list_contains(growing_stages(), verdicts.stage)
)
select own.* from own anti join again on again.tree = own.tree and again.node = own.node
union all
select compared.* from (
    select again.* from again
    union all
    select own.* from own semi join again on again.tree = own.tree and again.node = own.node
) as compared
qualify row_number() over (
    partition by compared.task, compared.tree, compared.node
    order by try_cast(compared.version as bigint) desc, compared.version desc, compared.stage desc
) = 1;

create or replace view leaves as
-- Every answer, with the verdict that stands; reward is null where there is none.
select
    nodes.task, nodes.tree, nodes.node, nodes.depth, nodes.origin, nodes.finish,
    judged.reward, judged.parsed_answer, judged.verifier, judged.version,
    nodes.suite, nodes.round, nodes.stage, nodes.shard, nodes.file
from nodes
left join judged using (task, tree, node)
where nodes.finish is not null and nodes.kind = 'step';

create or replace view paths as
-- Every end of a path, an answer's or a report's: steps and tokens from where its context begins down to it.
-- steps: nodes that are no prompt. tokens: prompt included; null where a file is too old to have counted them.
with recursive
-- Trees are told apart by a 64-bit hash, which takes half the time: in a million trees two share one by a chance of
-- 3 in 10^8. `steps >= 0` is true of every row; with it DuckDB expects few of them, and hashes those, not the ends.
inside as materialized (
    select
        hash(nodes.tree) as tree, nodes.node, nodes.parent, nodes.node = nodes.context as begins,
        (nodes.kind <> 'prompt')::integer as steps, nodes.token_count::bigint as tokens
    from nodes
    where nodes.finish is null
),
down(tree, node, steps, tokens) as (
    select inside.tree, inside.node, inside.steps, inside.tokens from inside where inside.begins
    union all
    select inside.tree, inside.node, down.steps + inside.steps, down.tokens + inside.tokens
    from down
    join inside on inside.tree = down.tree and inside.parent = down.node
    where not inside.begins
)
select
    nodes.suite, nodes.round, nodes.task, nodes.tree, nodes.node, nodes.kind, nodes.origin,
    case when nodes.node = nodes.context then 0 else above.steps end + (nodes.kind <> 'prompt')::integer as steps,
    case when nodes.node = nodes.context then 0 else above.tokens end + nodes.token_count as tokens
from nodes
left join (select down.* from down where down.steps >= 0) as above
    on above.tree = hash(nodes.tree) and above.node = nodes.parent
where nodes.finish is not null;

create or replace macro task_judged(of_task) as table
-- `judged`, of one task.
select verdicts.* from task_verdicts(of_task) as verdicts
where verdicts.reward is not null
qualify row_number() over (
    partition by verdicts.tree, verdicts.node
    order by try_cast(verdicts.version as bigint) desc, verdicts.version desc, verdicts.stage desc
) = 1;

create or replace macro task_leaves(of_task) as table
-- `leaves`, of one task.
select
    nodes.task, nodes.tree, nodes.node, nodes.depth, nodes.origin, nodes.finish,
    judged.reward, judged.parsed_answer, judged.verifier, judged.version,
    nodes.suite, nodes.round, nodes.stage, nodes.shard, nodes.file
from task_nodes(of_task) as nodes
left join task_judged(of_task) as judged using (tree, node)
where nodes.finish is not null and nodes.kind = 'step'
order by nodes.tree, nodes.node;

create or replace macro tree_nodes(of_tree) as table
-- The nodes of a tree, parents first.
select nodes.* from task_nodes(task_of(of_tree)) as nodes where nodes.tree = of_tree order by nodes.node;

create or replace macro path(of_tree, of_node) as table
-- The nodes from the root to a node, by parent.
with recursive
whole as materialized (select nodes.* from tree_nodes(of_tree) as nodes),
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
whole as materialized (select nodes.* from tree_nodes(of_tree) as nodes),
below(step) as (
    select whole.node from whole where whole.node = of_node
    union all
    select whole.node from below join whole on whole.parent = below.step
)
select whole.* from whole semi join below on whole.node = below.step
order by whole.node;

create or replace macro siblings(of_tree, of_node) as table
-- The other children of a node's parent. None of a root.
with whole as materialized (select nodes.* from tree_nodes(of_tree) as nodes),
self as (select whole.parent as above from whole where whole.node = of_node)
select whole.* from whole join self on whole.parent = self.above
where whole.node <> of_node
order by whole.node;
