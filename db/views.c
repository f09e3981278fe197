/* Owns the views: the public contract of run.db, word for word as documented. */
#include "db/schema.h"

#include <stddef.h>

const char schema_view_sampling[] =
    "CREATE VIEW v_sampling AS\n"
    " SELECT ru.name AS run,s.step,count(*) AS workers,sum(s.tokens) AS tokens,"
    "sum(s.drafts) AS drafts,\n"
    " 1.0*sum(s.drafts_right)/nullif(sum(s.drafts),0) AS acceptance,"
    "1.0*sum(s.turn_tokens)/nullif(sum(s.turns),0) AS tokens_per_turn,\n"
    " sum(s.preempted) AS preempted,sum(s.resumed_tokens) AS resumed_tokens,"
    "sum(s.prompt_tokens) AS prompt_tokens,sum(s.prefix_tokens) AS prefix_tokens\n"
    " FROM sampling s JOIN runs ru USING(run_id) GROUP BY s.run_id,s.step";

const char *const schema_views[] = {
    "CREATE VIEW v_samples AS\n"
    " SELECT s.sample_id,ru.name AS run,g.step,g.kind,s.version_first,s.version_last,"
    "g.group_id,s.idx,s.attempt,s.status,\n"
    " p.prompt_id,p.data_source,p.text AS prompt,p.answer,s.completion,s.n_prompt,s.n_tok,"
    "s.finish,s.reward,\n"
    " b.step AS trained_step,b.pos AS batch_pos,b.advantage,t.kl,t.entropy,t.clip_frac,"
    "t.mismatch_kl,t.ratio_max,s.gen_us\n"
    " FROM samples s JOIN groups g USING(group_id) JOIN prompts p USING(prompt_id) JOIN"
    " runs ru ON ru.run_id=g.run_id\n"
    " LEFT JOIN batch_items b ON b.sample_id=s.sample_id LEFT JOIN train_stats t ON"
    " t.sample_id=s.sample_id",

    "CREATE VIEW v_groups AS\n"
    " SELECT g.group_id,ru.name AS run,g.step,g.kind,p.prompt_id,p.data_source,"
    "substr(p.text,1,120) AS prompt,g.n,g.status,\n"
    " g.n_scored,g.reward_mean,g.reward_std,min(s.reward) AS reward_min,"
    "max(s.reward) AS reward_max,avg(s.n_tok) AS len_mean,\n"
    " sum(s.finish='length') AS truncated,sum(s.status='masked') AS masked,"
    "(g.reward_std=0) AS no_signal,\n"
    " count(s.completion)-count(DISTINCT s.completion) AS duplicates\n"
    " FROM groups g JOIN runs ru USING(run_id) JOIN prompts p USING(prompt_id)\n"
    " LEFT JOIN samples s ON s.group_id=g.group_id AND s.status IN('ok',"
    "'masked') GROUP BY g.group_id",

    "CREATE VIEW v_steps AS\n"
    " SELECT ru.name AS run,g.step,st.status,count(DISTINCT g.group_id) AS groups,"
    "count(*) AS samples,avg(s.reward) AS reward,\n"
    " sqrt(max(0,avg(s.reward*s.reward)-avg(s.reward)*avg(s.reward))) AS reward_std,\n"
    " 1.0*count(DISTINCT iif(g.reward_std=0,g.group_id,"
    "NULL))/count(DISTINCT g.group_id) AS frac_reward_zero_std,\n"
    " avg(s.n_tok) AS len_mean,max(s.n_tok) AS len_max,"
    "avg(s.finish='length') AS clipped_ratio,sum(s.status='masked') AS masked,\n"
    " st.loss,st.grad_norm,st.lr,st.kl,st.entropy,st.clip_frac,"
    "avg(t.mismatch_kl) AS mismatch_kl,max(t.mismatch_kl) AS mismatch_kl_max,\n"
    " st.version_in,st.version_out,st.n_tok,st.t_generate_us,st.t_reward_us,st.t_train_us,"
    "st.t_sync_us,st.t_wait_us\n"
    " FROM groups g JOIN runs ru USING(run_id) JOIN samples s ON s.group_id=g.group_id AND"
    " s.status IN('ok','masked')\n"
    " LEFT JOIN train_stats t ON t.sample_id=s.sample_id LEFT JOIN steps st ON"
    " st.run_id=g.run_id AND st.step=g.step\n"
    " WHERE g.kind='train' GROUP BY g.run_id,g.step",

    "CREATE VIEW v_batch AS\n"
    " SELECT ru.name AS run,b.step,b.pos,b.sample_id,s.group_id,s.idx,s.version_first,"
    "st.version_in-s.version_first AS staleness,\n"
    " s.reward,b.advantage,s.n_tok\n"
    " FROM batch_items b JOIN samples s USING(sample_id) JOIN steps st USING(run_id,"
    "step) JOIN runs ru USING(run_id)",

    "CREATE VIEW v_prompt_history AS\n"
    " WITH h AS (SELECT g.*,row_number() OVER (PARTITION BY run_id,prompt_id,"
    "kind ORDER BY step,group_id) AS k_first,\n"
    " row_number() OVER (PARTITION BY run_id,prompt_id,kind ORDER BY step DESC,"
    "group_id DESC) AS k_last\n"
    " FROM groups g WHERE reward_mean IS NOT NULL)\n"
    " SELECT ru.name AS run,h.kind,p.prompt_id,p.data_source,substr(p.text,1,"
    "120) AS prompt,count(*) AS times_seen,min(h.step) AS first_step,\n"
    " max(h.step) AS last_step,avg(h.reward_mean) AS reward_mean,"
    "avg(h.reward_std=0) AS frac_no_signal,\n"
    " max(iif(h.k_first=1,h.reward_mean,NULL)) AS reward_first,max(iif(h.k_last=1,"
    "h.reward_mean,NULL)) AS reward_last,\n"
    " max(iif(h.k_last=1,h.reward_mean,NULL))-max(iif(h.k_first=1,h.reward_mean,"
    "NULL)) AS gain\n"
    " FROM h JOIN prompts p USING(prompt_id) JOIN runs ru USING(run_id) GROUP BY h.run_id,"
    "h.prompt_id,h.kind",

    "CREATE VIEW v_expert_load AS\n"
    " SELECT ru.name AS run,e.step,e.layer,count(*) AS experts,sum(e.tokens) AS tokens,\n"
    " max(e.tokens)*1.0*count(*)/nullif(sum(e.tokens),0) AS max_over_mean,"
    "sum(e.tokens=0) AS dead\n"
    " FROM expert_load e JOIN runs ru USING(run_id) GROUP BY e.run_id,e.step,e.layer",

    "CREATE VIEW v_scores AS\n"
    " SELECT ru.name AS run,g.step,g.kind,s.group_id,r.sample_id,s.idx,f.name AS component,"
    "f.weight,r.status,r.value,r.us/1000.0 AS latency_ms,\n"
    " r.tries,r.cached,r.isolation,r.detail\n"
    " FROM rewards r JOIN reward_fns f USING(fn_id) JOIN samples s USING(sample_id) JOIN"
    " groups g USING(group_id) JOIN runs ru ON ru.run_id=g.run_id",

    "CREATE VIEW v_rewards AS\n"
    " SELECT run,step,kind,component,weight,count(value) AS n,avg(value) AS mean,"
    "sqrt(max(0,avg(value*value)-avg(value)*avg(value))) AS std,\n"
    " min(value) AS min,max(value) AS max,sum(status='n/a') AS not_applicable,"
    "sum(status='error') AS errors,sum(status='timeout') AS timeouts,\n"
    " sum(cached) AS cached,avg(latency_ms) AS latency_ms_mean,"
    "max(latency_ms) AS latency_ms_max\n"
    " FROM v_scores GROUP BY run,step,kind,component",

    "CREATE VIEW v_errors AS\n"
    " SELECT run,step,component,status,substr(detail,1,200) AS reason,count(*) AS n,"
    "min(sample_id) AS example_sample\n"
    " FROM v_scores WHERE status IN('error','timeout') GROUP BY run,step,component,status,"
    "reason",

    "CREATE VIEW v_length_hist AS\n"
    " SELECT run,step,(n_tok/128)*128 AS len_bucket,count(*) AS n,avg(reward) AS reward\n"
    " FROM v_samples WHERE kind='train' AND status IN('ok','masked') GROUP BY run,step,"
    "len_bucket",

    "CREATE VIEW v_suspects AS\n"
    " SELECT * FROM (SELECT x.run,x.step,x.sample_id,x.group_id,\n"
    " CASE WHEN x.finish='length' AND g.reward_std>0 AND"
    " x.reward>=g.reward_mean+g.reward_std THEN 'rewarded-but-truncated'\n"
    " WHEN x.n_tok<4 AND x.reward>0 THEN 'rewarded-but-very-short' WHEN x.mismatch_kl>0.1"
    " THEN 'sampler-trainer-mismatch'\n"
    " WHEN x.ratio_max>10 THEN 'ratio-outlier' END AS why,x.reward,x.advantage,x.n_tok,"
    "substr(x.completion,1,200) AS completion\n"
    " FROM v_samples x JOIN groups g USING(group_id)) WHERE why IS NOT NULL",

    "CREATE VIEW v_metrics AS\n"
    " SELECT ru.name AS run,m.step,k.name,m.value FROM metrics m JOIN metric_keys k"
    " USING(key_id) JOIN runs ru USING(run_id)",

    schema_view_sampling,
    NULL,
};
