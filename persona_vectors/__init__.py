__version__ = "0.1.0"

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, submod_attrs=dict(
    config=['PersonaVectorConfig', 'layer_index', 'resolve_layers'],
    personas=['PERSONAS', 'PERSONA_CATEGORIES', 'NEUTRAL', 'CORE_PERSONAS', 'EVAL_QUESTIONS', 'load_personas', 'load_questions', 'category_of'],
    responses=['Response', 'Responses', 'load_responses', 'shipped_responses'],
    models=['EMBEDDED', 'find_model'],
    prompts=['preview'],
    generation=["generate_responses", "agenerate_responses", "estimate"],
    vectors=['PersonaVectors', 'load_vectors'],
    extraction=['ActivationExtractor', 'extract_persona_vectors'],
    analysis=['assistant_axis', 'cosine_matrix', 'project', 'rank_personas', 'role_pca', 'side_by_side', 'tfidf_vectors'],
    plotting=['plot_cosine', 'plot_pca', 'plot_ranking', 'plot_variance', 'save_html'],
    uncertainty=['axis_strength', 'rank_intervals', 'reliability'],
    comparison=['compare'],
    report=['evidence'],
    local=['LocalModel'],
    steering=['Steer'],
    monitoring=['Monitor'],
    interop=['export_direction', 'export_roles', 'import_file'],
    hub=['push_to_hub', 'from_hub'],
    slider=['answers_at'],
    judging=["judge_responses", "trait_rubric"],
    verification=['verify'],
    parts=['Answers', 'extract_shard'],
    ray_data=['extract_on_ray'],
    planning=['plan_run'],
    pipeline=['run']))
