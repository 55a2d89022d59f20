-- Macros that answer one question each. Parameters are named as in views.sql.

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

create or replace macro first_error(of_tree) as table
-- Where each answer of a tree first goes wrong, by every labeller that labelled anything in the tree.
-- labelled: steps on the way to the answer that it labelled; 0: it says nothing of this answer.
-- first_wrong: the first of them with hard = false. Null: it calls none wrong.
-- lowest, lowest_soft: the one with the least soft label, the earliest of equals. Null: it gave none.
-- labeller is null, and all that follows from it, where the tree has no labels. Labels count in their newest version.
with recursive
whole as materialized (
    select nodes.node, nodes.parent, nodes.kind, nodes.finish from tree_nodes(of_tree) as nodes
),
said as materialized (
    select labels.node, labels.labeller, labels.hard, labels.soft
    from task_step_labels(task_of(of_tree)) as labels
    where labels.tree = of_tree
    qualify row_number() over (
        partition by labels.node, labels.labeller
        order by try_cast(labels.version as bigint) desc, labels.version desc
    ) = 1
),
up(leaf, step, above) as (
    select whole.node, whole.node, whole.parent from whole where whole.finish is not null and whole.kind = 'step'
    union all
    select up.leaf, whole.node, whole.parent from up join whole on whole.node = up.above
),
found as (
    select
        up.leaf, labellers.labeller, count(said.node) as labelled,
        min(up.step) filter (where not said.hard) as first_wrong,
        arg_min(up.step, (said.soft, up.step)) filter (where said.soft is not null) as lowest,
        min(said.soft) as lowest_soft
    from up
    left join (select distinct said.labeller from said) as labellers on true
    left join said on said.node = up.step and said.labeller = labellers.labeller
    group by up.leaf, labellers.labeller
)
select
    found.leaf, standing.reward, found.labeller, found.labelled,
    found.first_wrong, found.lowest, found.lowest_soft
from found
left join (
    select verdicts.node, verdicts.reward from task_judged(task_of(of_tree)) as verdicts where verdicts.tree = of_tree
) as standing on standing.node = found.leaf
order by found.leaf, found.labeller;

create or replace macro disagreement(method_a, method_b) as table
-- The nodes where one credit method gives an advantage above 0 and the other one below, widest apart first.
-- gap: how far apart, each advantage in root mean squares of its method over the suite's round, since units differ.
-- task_share: of the task's nodes with both advantages, the share where they differ so.
with
units as (
    select
        credit.suite, credit.round,
        sqrt(avg(credit.advantage ** 2) filter (where credit.method = method_a)) as unit_a,
        sqrt(avg(credit.advantage ** 2) filter (where credit.method = method_b)) as unit_b
    from credit
    where credit.method in (method_a, method_b)
    group by all
),
-- By hashes of trees, as in `paths`; a task's nodes are gathered as it is counted, so that no node waits for the rest.
tasks_of_both as (
    select
        one.suite, one.round, one.task, count(*) as both_known,
        list({'tree': one.tree, 'node': one.node, 'advantage_a': one.advantage, 'advantage_b': other.advantage})
            filter (where one.advantage * other.advantage < 0) as opposed
    from (from credit where credit.method = method_a and credit.advantage is not null) as one
    join (
        select hash(credit.tree) as tree, credit.node, credit.advantage
        from credit
        where credit.method = method_b and credit.advantage is not null
    ) as other on other.tree = hash(one.tree) and other.node = one.node
    group by all
),
opposed_nodes as (
    select
        tasks_of_both.suite, tasks_of_both.round, tasks_of_both.task,
        unnest(tasks_of_both.opposed, max_depth := 2),
        len(tasks_of_both.opposed) / tasks_of_both.both_known as task_share
    from tasks_of_both
)
select
    opposed_nodes.suite, opposed_nodes.round, opposed_nodes.task, opposed_nodes.tree, opposed_nodes.node,
    opposed_nodes.advantage_a, opposed_nodes.advantage_b,
    abs(opposed_nodes.advantage_a / units.unit_a - opposed_nodes.advantage_b / units.unit_b) as gap,
    opposed_nodes.task_share
from opposed_nodes
join units using (suite, round)
order by gap desc, opposed_nodes.tree, opposed_nodes.node;

create or replace macro waste() as table
-- What trees save and sampling costs, by suite and round.
-- path_tokens: of every path from where its context begins to its end, each path counted whole, as a trainer
-- without prefix sharing would. unique_tokens: of the nodes, each counted once. sharing: the one by the other.
-- paid_tokens: decoded by requests whose cost is booked here. kept_tokens: of those, what stands in a node; counted
-- once, in however many. paid_per_kept: the one by the other. engine_seconds: of the paid requests, from being sent to
-- their end; they overlap.
-- Null: not known, as where a file is too old to have counted tokens or said which request was paid.
with
whole as (
    select paths.suite, paths.round, sum(paths.tokens) as path_tokens from paths group by all
),
counted as (
    select
        nodes.suite, nodes.round,
        case when count(*) = count(nodes.token_count) then sum(nodes.token_count) end as unique_tokens
    from nodes
    group by all
),
booked as (
    select
        requests.suite, requests.round, requests.reused, requests.decoded_tokens, requests.seconds,
        hash(requests.request) in (select hash(nodes.request) from nodes where nodes.request is not null) as kept
    from requests
),
paid as (
    select
        booked.suite, booked.round, count(*) = count(booked.reused) as told,
        coalesce(sum(booked.decoded_tokens) filter (where not booked.reused), 0) as paid_tokens,
        coalesce(sum(booked.decoded_tokens) filter (where not booked.reused and booked.kept), 0) as kept_tokens,
        sum(booked.seconds) filter (where not booked.reused) as engine_seconds
    from booked
    group by all
)
select
    counted.suite, counted.round,
    case when counted.unique_tokens is not null then whole.path_tokens end as path_tokens,
    counted.unique_tokens,
    whole.path_tokens / nullif(counted.unique_tokens, 0) as sharing,
    case when paid.told then paid.paid_tokens end as paid_tokens,
    case when paid.told then paid.kept_tokens end as kept_tokens,
    case when paid.told then paid.paid_tokens / nullif(paid.kept_tokens, 0) end as paid_per_kept,
    case when paid.told then paid.engine_seconds end as engine_seconds
from counted
left join whole using (suite, round)
left join paid using (suite, round)
order by counted.suite, counted.round;
